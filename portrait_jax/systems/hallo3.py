"""Hallo3 (CVPR 2025, arXiv 2412.00733): a portrait that speaks, by a video transformer told the sound, the person and a prompt.

A pretrained text-to-video transformer denoises. After joint attention each frame attends to tokens of the person's face and of its
own sound (§3.2); a second transformer, run once on the face alone, gives every layer keys and values to look the person up in; a
longer video goes on from the last frames of the clip before (§3.3). Section numbers are the paper's; where paper and released
code differ, the config decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange

from portrait_jax.autoencoders import decode_streamed, decode_tiled, sample_latent
from portrait_jax.autoencoders.pixels import on_bars, to_pm1
from portrait_jax.backbones.cogvideox import remember
from portrait_jax.conditioning import Conditioning
from portrait_jax.diffusion.noise import noise_alike
from portrait_jax.diffusion.sampler import sample
from portrait_jax.diffusion.solvers import Index
from portrait_jax.encoders.speech import heard_windows
from portrait_jax.errors import ConfigError, ShapeError
from portrait_jax.long_video.continued import sample_continued
from portrait_jax.sharding.activations import strips_apart
from portrait_jax.systems.diffusing import weighted
from portrait_jax.systems.hallo3_loss import clip_loss, lips
from portrait_jax.systems.hallo3_networks import Hallo3Networks
from portrait_jax.systems.system import cache_of, guidance_of
from portrait_jax.typing import Array, Float, Int, Num, Params, PRNGKeyArray, UInt8

Latents = Float[Array, "b f h w c"]


@dataclass(frozen=True, eq=False)
class Hallo3(Hallo3Networks):
    """The system at any size: what its networks are told, sampling, and training."""

    driven_by: ClassVar[str] = "sound and text"
    temporal_decoder: ClassVar[bool] = True

    @property
    def batch_keys(self) -> tuple[str, ...]:
        """What `loss` reads of a batch; prompts ("text") if it has them."""
        hears = ("audio",) if self.audio_by != "none" else ()
        sees = ("identity" if self.precomputed else "face",) if self.face_by != "none" else ()
        looks = ("landmarks",) if self.loss_config.mouth or self.loss_config.lips else ()
        return ("frames", "reference", "face_mask", *sees, *hears, *looks)

    # Conditioning

    def encode_text(self, params: Params, ids: Int[Array, "b k"]) -> Float[Array, "b k d"]:
        """A prompt's tokens, padded with zeros to the denoiser's `text_tokens` ids."""
        return self.text_encoder.apply({"params": params["text_encoder"]}, ids)

    def encode_sound(self, params: Params, samples: Float[Array, "b t"], places: Float[Array, " n"]) -> Array:
        """Hidden states of the speech encoder at `places`, entry 0 being its first layer's input (`encoders.speech`)."""
        return self.audio_encoder.apply({"params": params["audio_encoder"]}, samples, places=places)

    def identify(self, params: Params, face_u8: UInt8[Array, "b s s 3"]) -> Float[Array, "b e"]:
        """A face on the recogniser's template (`face.five_points.aligned_face`) to its vector, not normalised."""
        return self.face_recogniser.apply({"params": params["face_recogniser"]}, to_pm1(face_u8), unit=False)

    def audio_tokens(self, params: Params, windows: Float[Array, "b f win layers d"]) -> Float[Array, "b lf k e"]:
        """Windows of speech features to tokens of the latent frames."""
        return self.audio_projection.apply({"params": params["audio_projection"]}, windows)

    def encode_portrait(
        self,
        params: Params,
        portrait_u8: UInt8[Array, "b h w 3"],
        told: Mapping[str, Array] | None = None,
        rng: PRNGKeyArray | None = None,
    ) -> Conditioning:
        """Prompt, tokens and memory of the person, once for all clips.

        Args:
            portrait_u8: of the system's size, or smaller, on black bars then.
            told: any of `face_mask` "b h w", 1 inside the face's rectangle, 0 outside, which the reference transformer does not
                see (without it, or with `memory_of` "portrait", it sees all); `face` or `identity`, see `identity`; `text`, see
                `prompt`.
            rng: draws the masked picture's latent from the encoder's Gaussian, as the release does, for all portraits alike; None
                takes its mean.
        """
        told, clips = told or {}, len(portrait_u8)
        mask = told.get("face_mask", jnp.ones(portrait_u8.shape[:3]))
        masked = self.to_latents(params, self.reference_input(portrait_u8, mask), rng, alike=True)
        text = self.prompt(params, told, clips)
        # By the release the reference transformer is told no prompt in sampling.
        read = text if self.memory_of == "portrait" else 0 * text
        return self.person(params, masked, self.identity(params, told, clips), read).replace(text=text)

    def picture(self, picture_u8: UInt8[Array, "*b h w 3"]) -> Float[Array, "*b H W 3"]:
        """Pictures in [−1, 1] at the system's size, smaller ones on black bars."""
        return to_pm1(on_bars(picture_u8, self.height, self.width))

    def reference_input(
        self, picture_u8: UInt8[Array, "b h w 3"], face_mask: Float[Array, "b h w"]
    ) -> Float[Array, "b 1 H W 3"]:
        """Videos of one frame, black outside the mask; whole where the reference transformer sees the portrait."""
        if self.memory_of == "portrait":
            return self.picture(picture_u8)[:, None]
        mask = on_bars(face_mask[..., None].astype(jnp.float32), self.height, self.width)
        return ((self.picture(picture_u8) + 1) * mask - 1)[:, None]

    def prompt(self, params: Params, told: Mapping[str, Array], clips: int) -> Float[Array, "b k d"]:
        """Tokens of `told["text"]`: ids "b k", padded with zeros to `prompt_length`, or "b k d" from `encode_text`; or zeros.

        Raises ConfigError for ids where no encoder is.
        """
        config = self.denoiser_config
        text = told.get("text")
        if text is None:
            return jnp.zeros((clips, config.text_tokens, config.text_dim))
        if text.ndim == 3:
            return text
        self._encodes("text")
        return self.encode_text(params, text)

    def identity(self, params: Params, told: Mapping[str, Array], clips: int) -> Float[Array, "b e"]:
        """`told["identity"]`, a vector as `identify` gives it, or that of `told["face"]`; without them zeros, as where no face is
        found. Raises ConfigError for a face where no recogniser is."""
        if "identity" in told:
            return told["identity"]
        if "face" not in told or self.face_by == "none":
            return jnp.zeros((clips, self.recogniser_config.embedding))
        self._encodes("face")
        return self.identify(params, told["face"])

    def _encodes(self, name: str) -> None:
        if self.precomputed:
            raise ConfigError(
                f"'{name}' is given as it is, but model.precomputed says that it comes encoded; set it False"
            )

    def person(
        self, params: Params, masked: Latents, identity: Float[Array, "b e"], text: Float[Array, "b k d"]
    ) -> Conditioning:
        """Tokens of the identity vector, and memory of the masked portrait's latent "b 1 h w c", told a prompt."""
        tokens = None
        if self.face_by != "none":
            tokens = self.face_projection.apply({"params": params["face_projection"]}, identity)
        memory = self.person_memory(params, masked, text) if self.memory else None
        return Conditioning(image_tokens=tokens, memory=memory)

    def person_memory(self, params: Params, masked: Latents, text: Float[Array, "b k d"]) -> tuple[Array, Array]:
        """Keys and values of the masked portrait's latent "b 1 h w c" for every layer of the denoiser.

        The reference transformer sees the latent, unnoised, in both halves of its channels.
        """
        _, features = self.reference.apply(
            {"params": params["reference"]}, masked, jnp.zeros(len(masked)), Conditioning(text=text, known=masked), capture=True
        )  # fmt: skip
        return remember(self.denoiser_config, params["denoiser"], features, self.dtype)

    def known_latents(
        self,
        params: Params,
        portrait_pm1: Float[Array, "b H W 3"],
        motion_pm1: Float[Array, "b g H W 3"],
        mask_rng: PRNGKeyArray | None = None,
        rng: PRNGKeyArray | None = None,
        frames: int | None = None,
        alike: bool = False,
    ) -> Latents:
        """What a clip is told of its beginning: latents of portrait and motion frames, then zeros (or the portrait's, as
        `motion.after` says), for all of its latent frames.

        `motion_pm1` are the last frames of the clip before, or copies of the portrait. `mask_rng` masks a share of their pixels,
        the same ones of all items; None masks none. `frames` are the clip's, if not the config's. `rng`, `alike`: see `to_latents`.
        """
        if mask_rng is not None:
            seen = jax.random.bernoulli(mask_rng, 1 - self.motion.masked, portrait_pm1.shape[1:3])
            motion_pm1 = motion_pm1 * seen[..., None]
        if self.motion.together:
            shown = jnp.concatenate([portrait_pm1[:, None], motion_pm1], axis=1)
            latents = self.to_latents(params, shown, rng, alike)
        else:
            latents = self.to_latents(params, motion_pm1, rng, alike, singly=True)
        rest = self.autoencoder_config.latent_frames(frames or self.frames) - latents.shape[1]
        if rest < 0:
            raise ShapeError(f"{motion_pm1.shape[1]} motion frames are more than the clip has; give a longer clip")
        if rest and self.motion.after == "portrait":
            still = self.to_latents(params, portrait_pm1[:, None])
            return jnp.concatenate([latents, jnp.repeat(still, rest, axis=1)], axis=1)
        return jnp.pad(latents, ((0, 0), (0, rest), (0, 0), (0, 0), (0, 0)))

    def encode_driving(
        self, params: Params, portrait: Conditioning, driving: Mapping[str, Array]
    ) -> dict[str, Conditioning]:
        """Adds `driving["audio"]`, windows of hidden states "b f win layers d", and `driving["known"]` from `known_latents`.

        Guidance leads away from no prompt and silence; person and known frames are the same in both branches.
        Raises ConfigError if one of them is missing.
        """
        for name in ("audio", "known"):
            if name not in driving:
                raise ConfigError(
                    f"Hallo3 is driven by sound and goes on from frames: '{name}' is missing among {sorted(driving)}"
                )
        cond = portrait.replace(audio=self.audio_tokens(params, driving["audio"]), known=driving["known"])
        silence = self.audio_tokens(params, 0 * driving["audio"])
        assert cond.text is not None
        return {"uncond": cond.replace(text=0 * cond.text, audio=silence), "cond": cond}

    # Sampling

    def denoise(self, params: Params, noisy: Latents, timestep: Num[Array, " b"], conditioning: Conditioning) -> Any:
        """The network's output "b f h w c", of the kind that `prediction` names; see `System.denoise`."""
        return self.denoiser.apply({"params": params["denoiser"]}, noisy, timestep, conditioning)

    def sample(self, params: Params, branches: Mapping[str, Conditioning], rng: PRNGKeyArray) -> Latents:
        """Latents of a clip of each portrait by the config's sampling, all of one noise; `branches`: from `encode_driving`."""
        known = branches["cond"].known
        assert known is not None
        keys, solver = jax.random.split(rng), self.solver(self.sampling.steps)

        def step_noise(index: Index) -> Array:
            return noise_alike(jax.random.fold_in(keys[1], index), known.shape)

        return sample(
            partial(self.denoise, params), noise_alike(keys[0], known.shape), branches, solver,
            guidance_of(self.sampling), step_noise=step_noise if solver.stochastic else None, cache=cache_of(self.sampling),
        )  # fmt: skip

    def sample_clips(
        self,
        params: Params,
        person: Conditioning,
        portrait_u8: UInt8[Array, "b h w 3"],
        windows: Float[Array, "clips b f win layers d"],
        rng: PRNGKeyArray,
        carry: Float[Array, "b g H W 3"] | None = None,
        first: int | Array = 0,
    ) -> tuple[Float[Array, "b g H W 3"], Float[Array, "b frames H W 3"]]:
        """New frames of clips that go on from each other, in [−1, 1], and the carry for those that follow (§3.3).

        Each portrait's are what it has alone: all draw the same noise.
        `person` comes from `encode_portrait`, `windows` from `long_video.continued.clip_features`; the first clip goes on from
        copies of the portrait, or from the `carry` of an earlier call with `first` the number of clips before.
        """
        image = self.picture(portrait_u8)
        start = jnp.repeat(image[:, None], self.motion.frames, axis=1) if carry is None else carry

        def clip(motion: Array, audio: Array, key: PRNGKeyArray) -> Array:
            keys = jax.random.split(key, 3)
            known = self.known_latents(params, image, motion, keys[0], keys[1], audio.shape[1], alike=True)
            branches = self.encode_driving(params, person, {"audio": audio, "known": known})
            return jnp.clip(self.decode(params, self.sample(params, branches, keys[2])), -1, 1)

        return sample_continued(clip, start, windows, rng, first)

    def decode(self, params: Params, latents: Latents) -> Float[Array, "b _ H W 3"]:
        """Latents → images in [−1, 1], two latent frames at a time, as the release has it; tile by tile where `sampling` says so,
        each a stream of its own."""
        unscaled, chosen = latents / self.autoencoder_config.scaling_factor, self.sampling

        def decode(part: Latents) -> Array:
            return decode_streamed(self.autoencoder, params["autoencoder"], strips_apart(part))

        return decode_tiled(decode, unscaled, chosen.decode_tile, chosen.decode_overlap)

    def to_latents(
        self,
        params: Params,
        video_pm1: Float[Array, "b frames H W 3"],
        rng: PRNGKeyArray | None = None,
        alike: bool = False,
        singly: bool = False,
    ) -> Latents:
        """A video, all at once or frame by frame (`singly`), to scaled latents: drawn with `rng`, otherwise the means.

        `alike`: with the same noise for every item, which it would have alone.
        """
        encode = partial(self.autoencoder.apply, {"params": params["autoencoder"]}, method="encode")
        if singly:
            single = encode(rearrange(video_pm1, "b f h w c -> (b f) 1 h w c"))
            mean, logvar = (rearrange(each, "(b f) 1 h w c -> b f h w c", b=len(video_pm1)) for each in single)
        else:
            mean, logvar = encode(video_pm1)
        drawn = mean if rng is None else sample_latent(rng, mean, logvar, alike)
        return drawn * self.autoencoder_config.scaling_factor

    # Training

    def windows_of(self, params: Params, audio: Float[Array, "b ..."], frames: int) -> Float[Array, "b f win layers d"]:
        """Hidden states around each frame of training clips (`encoders.speech.heard_windows`); such as are given stay."""
        if audio.ndim > 2:
            return audio
        self._encodes("audio")
        return heard_windows(partial(self.encode_sound, params), audio, self.clock(), frames, self.reach)

    def loss(
        self, params: Params, batch: Mapping[str, Array], rng: PRNGKeyArray, stage: str
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The diffusion loss of clips that go on from their own first frames, and what `loss_config` adds (`hallo3_loss`).

        Batch: `frames` u8 "b f h w 3"; `reference` u8 "b h w 3", another frame of the video; `face_mask` "b h w" in 0..1 and
        `face` u8 "b s s 3" (or `identity` "b e") of it; maybe `text`; in the second stage `audio`: the sound "b t" at 16 kHz, with
        as much before the frames as after them, or windows of hidden states "b f win layers d". Smaller pictures than the
        system's get black bars. What is said once more of `text` and `face`: `prompt`, `identity`. `landmarks` "b f 478 d", pixels,
        where the loss looks at mouths. Metrics: `diffusion`, unweighted, and `lips`.
        """
        chosen = self.loss_config
        found = clip_loss(self, params, batch, rng) if chosen.diffusion else {}
        if chosen.lips:
            found["lips"] = lips(self, params, batch)
        return weighted(chosen, found)
