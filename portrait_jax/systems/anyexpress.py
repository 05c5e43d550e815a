"""AnyExpress: any Stable Diffusion 1.5 model, personalised or not, made to speak by one adapter.

The image model stays as it is: UNet, text encoder, autoencoder and an IP-Adapter that says whose face it is. What trains is
the adapter: a projection of speech features, an attention to them in every spatial transformer, and AnimateDiff's motion
modules in the first and the last block of each side. A T2I-Adapter or a ControlNet from the shelf can tell poses. Long videos
go on from the last frames of the window before (`long_video.prefix`). No code and no weights of this paper were found; what
it leaves open is decided in `configs/anyexpress.py`, each decision by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from portrait_jax.adapters.anchor import COLLECTION, anchor_slot, measured, site_name
from portrait_jax.adapters.audio import AudioConfig, AudioProjection, audio_slot
from portrait_jax.adapters.controlnet import ControlNet, ControlNetConfig
from portrait_jax.adapters.image_prompt import ImagePromptConfig, image_projection, image_prompt_slot
from portrait_jax.adapters.t2i_adapter import T2IAdapter, T2IAdapterConfig
from portrait_jax.autoencoders.kl import AutoencoderKL, KLConfig
from portrait_jax.autoencoders.pixels import middle, to_pm1
from portrait_jax.backbones.unet import UNet, UNetConfig, layer_sites
from portrait_jax.conditioning import Conditioning
from portrait_jax.diffusion.prediction import check_prediction
from portrait_jax.diffusion.schedule import Schedule, make_schedule
from portrait_jax.diffusion.solvers import Solver, make_solver
from portrait_jax.encoders.clip_text import CLIPText, CLIPTextConfig, empty_prompt
from portrait_jax.encoders.clip_vision import CLIPVision, CLIPVisionConfig, clip_pixels
from portrait_jax.encoders.speech import Clock, heard_windows
from portrait_jax.encoders.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from portrait_jax.errors import ConfigError
from portrait_jax.nn.slots import Slot
from portrait_jax.nn.temporal import TemporalConfig
from portrait_jax.settings import compute_dtype, from_mapping
from portrait_jax.systems.anyexpress_loss import diffusion_loss, lips
from portrait_jax.systems.anyexpress_settings import CONTROLS, Behaviour, LossConfig, check_sizes
from portrait_jax.systems.diffusing import LatentDiffusion, weighted
from portrait_jax.systems.follow_your_emoji import FollowYourEmoji
from portrait_jax.systems.landmark_teacher import check_teacher
from portrait_jax.systems.system import SamplingConfig
from portrait_jax.training.lips import lip_reader
from portrait_jax.training.task import Stage
from portrait_jax.typing import Array, Float, Int, Num, Params, PRNGKeyArray, UInt8


@dataclass(frozen=True, eq=False)
class AnyExpress(LatentDiffusion):
    """The system at any size; built from a config by `from_config`."""

    autoencoder_config: KLConfig
    denoiser_config: UNetConfig
    text_config: CLIPTextConfig
    image_encoder_config: CLIPVisionConfig
    image_prompt_config: ImagePromptConfig
    speech_config: Wav2Vec2Config
    audio_config: AudioConfig
    schedule: Schedule
    loss_config: LossConfig
    behaviour: Behaviour
    sampling: SamplingConfig
    stages: Mapping[str, Stage]
    image_size: int
    dtype: Any
    prediction: str = "epsilon"
    teacher: FollowYourEmoji | None = None
    """What attention to sound learns from, where `loss.teacher` says so."""
    name: str = "anyexpress"

    driven_by: ClassVar[str] = "sound"
    adapter: ClassVar[tuple[str, ...]] = ("audio_projection/", "denoiser/.*(audio_attention|motion_modules)")
    """What moves from base to base (`systems.loading.on_base`)."""

    def __post_init__(self) -> None:
        """Raises ConfigError where two sizes that must agree do not, or a teacher is missing."""
        check_prediction(self.prediction)
        check_teacher(self.loss_config.teacher, self.teacher, self.prediction, self.loss_config.temporal)
        check_sizes(
            self.autoencoder_config, self.denoiser_config, self.text_config, self.image_encoder_config,
            self.image_prompt_config, self.image_size,
        )  # fmt: skip

    @classmethod
    def from_config(cls, config: Any) -> AnyExpress:
        """Builds the system from `configs/anyexpress.py`; raises `ConfigError` naming the wrong key."""
        model = config.model
        behaviour = from_mapping(Behaviour, model.behaviour)
        return cls(
            autoencoder_config=from_mapping(KLConfig, model.autoencoder),
            denoiser_config=from_mapping(
                UNetConfig,
                model.denoiser,
                temporal=from_mapping(TemporalConfig, model.temporal),
                context_field="text",
                joined_inputs=("portrait",) if behaviour.portrait_latents else (),
            ),
            text_config=from_mapping(CLIPTextConfig, model.text_encoder),
            image_encoder_config=from_mapping(CLIPVisionConfig, model.image_encoder),
            image_prompt_config=from_mapping(ImagePromptConfig, model.image_prompt),
            speech_config=from_mapping(Wav2Vec2Config, model.audio_encoder),
            audio_config=from_mapping(AudioConfig, model.audio),
            schedule=make_schedule(**model.schedule),
            loss_config=from_mapping(LossConfig, config.loss),
            behaviour=behaviour,
            sampling=from_mapping(SamplingConfig, config.sampling),
            stages={config.stage: Stage.from_config(config.train)} if "train" in config else {},
            image_size=model.image_size,
            dtype=compute_dtype(config.compute_dtype),
            prediction=model.prediction,
            teacher=FollowYourEmoji.from_config(config.teacher)
            if config.loss.teacher and "teacher" in config
            else None,
        )

    @property
    def batch_keys(self) -> tuple[str, ...]:
        """What `loss` reads of a batch; prompts ("text", token ids) if it has them."""
        chosen = self.loss_config
        wanted = {"audio": chosen.sound, "landmarks": chosen.mouth or chosen.lips, "control": chosen.teacher}
        return ("frames", "reference", *(name for name, needed in wanted.items() if needed))

    # The networks. All are plain functions of their parameters; building one costs nothing.

    @property
    def autoencoder(self) -> AutoencoderKL:
        return AutoencoderKL(self.autoencoder_config, dtype=self.dtype)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """What stands in the base: identity beside the text, then the sound; and what a pose control adds."""
        identity = image_prompt_slot(self.denoiser_config.num_heads, self.behaviour.id_scale)
        return (identity, audio_slot(self.audio_config), *CONTROLS[self.behaviour.control], anchor_slot())

    @property
    def denoiser(self) -> UNet:
        return UNet(self.denoiser_config, self.slots, dtype=self.dtype)

    @property
    def text_encoder(self) -> CLIPText:
        return CLIPText(self.text_config, dtype=self.dtype)

    @property
    def image_encoder(self) -> CLIPVision:
        return CLIPVision(self.image_encoder_config, dtype=self.dtype)

    @property
    def image_prompt(self) -> nn.Module:
        return image_projection(self.image_prompt_config, self.dtype)

    @property
    def audio_encoder(self) -> Wav2Vec2:
        return Wav2Vec2(self.speech_config, dtype=self.dtype)

    @property
    def audio_projection(self) -> AudioProjection:
        return AudioProjection(self.audio_config, dtype=self.dtype)

    @property
    def pose_adapter(self) -> T2IAdapter:
        sizes = self.denoiser_config
        config = T2IAdapterConfig(sizes.block_out_channels, sizes.layers_per_block, self.autoencoder_config.stride)
        return T2IAdapter(config, dtype=self.dtype)

    @property
    def controlnet(self) -> ControlNet:
        return ControlNet(ControlNetConfig(replace(self.denoiser_config, temporal=None)), dtype=self.dtype)

    @property
    def reach(self) -> int:
        """Frames on either side that a frame hears."""
        return self.audio_config.reach

    @property
    def needs_portrait(self) -> bool:
        """Whether anything of the portrait is told; otherwise the prompt alone says who it is."""
        return self.behaviour.id_scale > 0 or self.behaviour.portrait_latents

    @property
    def prompt_length(self) -> int:
        """Token ids of a prompt."""
        return self.text_config.positions

    def clock(self, fps: float | None = None) -> Clock:
        """Where frames lie on a sound, at this rate or the training clips'."""
        return Clock(self.behaviour.fps if fps is None else fps, self.speech_config)

    def solver(self, steps: int) -> Solver:
        chosen = self.sampling
        return make_solver(
            chosen.solver, self.schedule, steps, self.prediction, chosen.spacing, previous=chosen.previous,
            offset=chosen.offset, final_alpha_bar=float(self.schedule.alpha_bar[0]),
        )  # fmt: skip

    def init(self, rng: PRNGKeyArray, stage: str = "") -> Params:
        """Fresh parameters of all networks; motion modules and audio attention lie in the denoiser."""
        h, w, c = self.latent_shape()
        names = (
            "autoencoder",
            "text_encoder",
            "image_encoder",
            "image_prompt",
            "audio_encoder",
            "audio_projection",
            "control",
        )
        keys = dict(zip((*names, "denoiser"), jax.random.split(rng, len(names) + 1)))
        latent, time = jnp.zeros((1, 1, h, w, c)), jnp.zeros(1)
        image = jnp.zeros((1, self.image_size, self.image_size, 3))
        text, text_encoder = self.text_encoder.init_with_output(keys["text_encoder"], empty_prompt(self.text_config, 1))
        seen, image_encoder = self.image_encoder.init_with_output(
            keys["image_encoder"], self._pixels(image), **self._seen()
        )
        tokens, image_prompt = self.image_prompt.init_with_output(keys["image_prompt"], seen)
        sound = jnp.zeros((1, self.speech_config.shortest))
        states, audio_encoder = self.audio_encoder.init_with_output(keys["audio_encoder"], sound)
        window = jnp.zeros((1, 1, self.audio_config.window, states.shape[2] - 1, states.shape[3]))
        audio, projection = self.audio_projection.init_with_output(keys["audio_projection"], window)
        condition = Conditioning(text=text, image_tokens=tokens, audio=audio)
        made = {
            "autoencoder": self.autoencoder.init(keys["autoencoder"], image),
            "text_encoder": text_encoder,
            "image_encoder": image_encoder,
            "image_prompt": image_prompt,
            "audio_encoder": audio_encoder,
            "audio_projection": projection,
            "denoiser": self.denoiser.init(keys["denoiser"], latent, time, condition),
        }
        if self.loss_config.teacher and self.teacher is not None:
            made["teacher"] = {"params": self.teacher.init(jax.random.fold_in(rng, 2))}
        if self.loss_config.lips:
            made["lip_reader"] = lip_reader().init(jax.random.fold_in(rng, 1), audio.reshape(1, -1))
        if self.behaviour.control == "t2i_adapter":
            made["pose_adapter"] = self.pose_adapter.init(keys["control"], image[:, None])
        if self.behaviour.control == "controlnet":
            made["controlnet"] = self.controlnet.init(keys["control"], latent, time, image[:, None], text)
        return {name: variables["params"] for name, variables in made.items()}

    # Conditioning

    def encode_text(self, params: Params, ids: Int[Array, "b n"]) -> Float[Array, "b n d"]:
        """Prompts to tokens."""
        return self.text_encoder.apply({"params": params["text_encoder"]}, ids, clip_skip=self.behaviour.clip_skip)

    def encode_portrait(self, params: Params, portrait_u8: UInt8[Array, "b h w 3"]) -> Conditioning:
        """Tokens of the face, once per clip; none of it where the identity's scale is 0."""
        image, shows, tells = to_pm1(portrait_u8), self.behaviour.portrait_latents, self.behaviour.id_scale > 0
        return Conditioning(
            image_tokens=self._identity(params, self._pixels(image)) if tells else None,
            portrait=self.to_latents(params, image[:, None])[:, 0] if shows else None,
        )

    def no_identity(self, params: Params, count: int) -> Float[Array, "b k d"]:
        """The tokens of nobody: what the adapters were trained to take for no picture."""
        side = self.image_encoder_config.image_size
        tokens = self._identity(params, jnp.zeros((1, side, side, 3)), nobody=True)
        return jnp.broadcast_to(tokens, (count, *tokens.shape[1:]))

    def encode_sound(self, params: Params, samples: Float[Array, "b t"], places: Float[Array, " n"]) -> Array:
        """Hidden states of the speech encoder at `places`, entry 0 being its first layer's input (`encoders.speech`)."""
        return self.audio_encoder.apply({"params": params["audio_encoder"]}, samples, places=places)

    def audio_tokens(self, params: Params, windows: Float[Array, "b f win layers d"]) -> Float[Array, "b f k e"]:
        """Windows of hidden states (`encoders.speech.frame_windows`) to tokens of each frame."""
        return self.audio_projection.apply({"params": params["audio_projection"]}, windows)

    def encode_driving(
        self, params: Params, portrait: Conditioning, driving: Mapping[str, Array]
    ) -> dict[str, Conditioning]:
        """The sound of `driving["audio"]`, hidden states "b f win layers d", for both guidance branches.

        Optional: `text` and `negative_text`, token ids "b n" (default: the empty prompt), and `control`, pictures u8 "b f H W 3".
        Guidance leads away from the negative prompt, nobody and no sound; control and prefix stay.
        Raises ConfigError if there is no sound, or a control that nothing reads.
        """
        if "audio" not in driving:
            raise ConfigError(f"AnyExpress is driven by sound, and 'audio' is missing among {sorted(driving)}")
        audio = self.audio_tokens(params, driving["audio"])
        clips = audio.shape[0]
        text, negative = (
            self.encode_text(params, driving.get(name, empty_prompt(self.text_config, clips)))
            for name in ("text", "negative_text")
        )
        shared = self._controlled(params, portrait, driving["control"]) if "control" in driving else portrait
        cond = shared.replace(text=text, audio=audio)
        uncond = shared.replace(text=negative, audio=jnp.zeros_like(audio))
        if portrait.image_tokens is not None:
            uncond = uncond.replace(image_tokens=self.no_identity(params, clips).astype(portrait.image_tokens.dtype))
        if portrait.portrait is not None:
            uncond = uncond.replace(portrait=jnp.zeros_like(portrait.portrait))
        return {"cond": cond, "uncond": uncond}

    def denoise(
        self,
        params: Params,
        noisy: Float[Array, "b f h w c"],
        timestep: Num[Array, " t"],
        conditioning: Conditioning,
        **options: Any,
    ) -> Any:
        """The network's output "b f h w c", of the kind that `prediction` names; a ControlNet runs before it, on the text alone.

        `options` are flax's, with what these make of the result.
        """
        return self._denoise(params, noisy, timestep, conditioning, **options)

    @property
    def anchor_sites(self) -> dict[str, int]:
        """Where `denoise_measured` measures → channels."""
        return {site_name(site): site.channels for site in layer_sites(self.denoiser_config)}

    def denoise_measured(
        self, params: Params, noisy: Float[Array, "b f h w c"], timestep: Num[Array, " t"], conditioning: Conditioning
    ) -> tuple[Float[Array, "b f h w c"], dict[str, Float[Array, "b 2 _"]]]:
        """`denoise` and the statistics of features by site, before `conditioning.anchor` moves them."""
        output, sown = self._denoise(params, noisy, timestep, conditioning, mutable=[COLLECTION])
        return output, measured(sown[COLLECTION])

    def _denoise(
        self, params: Params, noisy: Array, timestep: Array, conditioning: Conditioning, **options: Any
    ) -> Any:
        told, given = timestep, conditioning.given
        if self.behaviour.prefix_timestep == "zero" and given is not None:
            level = jnp.broadcast_to(timestep.reshape(len(noisy), -1), given.shape)
            told = jnp.where(given > 0, 0, level).reshape(-1)
        if conditioning.control is not None:
            residuals = self.controlnet.apply(
                {"params": params["controlnet"]}, noisy, told, conditioning.control, conditioning.text
            )
            conditioning = conditioning.replace(skip_residuals=self._weighed(residuals))
        variables = {"params": params["denoiser"]}
        temporal = self.loss_config.temporal
        return self.denoiser.apply(variables, noisy, told, conditioning, use_temporal=temporal, **options)

    def _seen(self) -> dict[str, Any]:
        """What the identity's projection reads of the image encoder: its embedding, or the last state but one."""
        return {"embed": True} if self.image_prompt_config.kind == "plain" else {"layer": -2}

    def _identity(self, params: Params, pixels: Float[Array, "b s s 3"], nobody: bool = False) -> Float[Array, "b k d"]:
        seen = self.image_encoder.apply({"params": params["image_encoder"]}, pixels, **self._seen())
        if nobody and self.image_prompt_config.kind == "plain":
            seen = jnp.zeros_like(seen)
        return self.image_prompt.apply({"params": params["image_prompt"]}, seen)

    def _pixels(self, image_pm1: Float[Array, "b h w 3"]) -> Float[Array, "b s s 3"]:
        return clip_pixels(middle(image_pm1, self.behaviour.identity_crop), self.image_encoder_config.image_size)

    def _controlled(self, params: Params, shared: Conditioning, control_u8: UInt8[Array, "b f H W 3"]) -> Conditioning:
        kind, image_01 = self.behaviour.control, control_u8.astype(jnp.float32) / 255
        if kind == "none":
            raise ConfigError(
                "control pictures are given and nothing reads them; name a T2I-Adapter or a ControlNet among the bases (--base), "
                "or set model.behaviour.control"
            )
        if kind == "controlnet":
            return shared.replace(control=image_01)
        features = self.pose_adapter.apply({"params": params["pose_adapter"]}, image_01)
        return shared.replace(level_residuals=self._weighed(features))

    def _weighed(self, residuals: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(self.behaviour.control_scale * residual for residual in residuals)

    # Training

    def loss(
        self, params: Params, batch: Mapping[str, Array], rng: PRNGKeyArray, stage: str
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The diffusion loss on the frames that are to be made, and what `loss_config` adds (`anyexpress_loss`).

        Batch: `frames` u8 "b f H W 3", `reference` u8 "b H W 3", `audio` "b t" with as much sound before the frames as after
        them, maybe `text`, token ids "b n", and `landmarks` "b f 478 3", pixels, where the loss looks at mouths. The first
        frames of a clip stay clean, as the prefix of a window is. Single frames (`temporal` off) have a noise level
        each. Metrics: `diffusion`, unweighted, `teacher` and
        `lips`.
        """
        chosen, keys = self.loss_config, tuple(jax.random.split(rng, 5))
        found = diffusion_loss(self, params, batch, keys) if chosen.diffusion else {}
        if chosen.lips:
            found["lips"] = lips(self, params, batch)
        return weighted(chosen, found)

    def windows_of(self, params: Params, samples: Float[Array, "b t"], frames: int) -> Float[Array, "b f win layers d"]:
        """Hidden states around each frame of training clips, see `encoders.speech.heard_windows`."""
        return heard_windows(partial(self.encode_sound, params), samples, self.clock(), frames, self.reach)
