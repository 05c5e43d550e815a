"""`launch.evaluate --analysis attention_entropy`: how decided the attention to each condition is, level of noise by level of noise.

Unseen procedural people speak; their true frames are noised to as many levels as sampling has steps, and in one call of the
denoiser at each level the attention to text, portrait and sound is measured (`metrics.attention_entropy`), and once more that to
sound where there is none to hear: the same condition, strong and weak.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data.cases import spoken_case
from launch.evaluations.common import Options, signals_of
from portrait_jax.animation import Animator
from portrait_jax.autoencoders.pixels import to_pm1
from portrait_jax.diffusion.schedule import add_noise
from portrait_jax.errors import ConfigError
from portrait_jax.media.charts import line_chart
from portrait_jax.media.files import atomic_output
from portrait_jax.media.image import write_image
from portrait_jax.metrics.attention_entropy import attention_entropies
from portrait_jax.metrics.suite import Case
from portrait_jax.progress import Bars
from portrait_jax.typing import PRNGKeyArray


def run(animator: Animator, options: Options, settings: Mapping[str, Any]) -> None:
    """Writes attention_entropy.json (mean by condition and level, and by block) and attention_entropy.png.

    Raises:
        ConfigError: for more frames than one window of the sampler holds.
    """
    system: Any = animator.system
    levels = sorted({int(level) for level in animator.solver.timesteps})
    look, window, found = Look.at(animator, levels), options.frames, []
    if window > int(animator.settings["window"]):
        raise ConfigError(
            f"the network sees {animator.settings['window']} frames at once, not {window}; give fewer --frames"
        )
    with Bars("people") as bars:
        for index in bars.track(range(options.identities), "looking", options.identities):
            person: Any = spoken_case(index, window, system.image_size, options.seed)
            noise = jax.random.fold_in(jax.random.key(options.seed), index)
            strong, weak = (look(person, sound, noise) for sound in (person.sound, 0 * person.sound))
            found.append([{**one, "silence": other["sound"]} for one, other in zip(strong, weak)])
    means = jax.tree.map(lambda *values: float(np.mean(values)), *found)
    courses = {name: [float(np.mean(list(at[name].values()))) for at in means] for name in means[0]}
    with atomic_output(options.output / "attention_entropy.json") as partial_file:
        report = {"settings": dict(settings), "timesteps": levels, "mean": courses, "blocks": means}
        partial_file.write_text(json.dumps(report, indent=2) + "\n")
    title = "entropy of attention to each condition (1: spread over all tokens)"
    write_image(
        options.output / "attention_entropy.png", line_chart(levels, courses, title, "timestep (right: noisier)")
    )
    for name, values in courses.items():
        print(
            f"{name}: {np.mean(values):.3f} ({values[0]:.3f} at timestep {levels[0]}, {values[-1]:.3f} at {levels[-1]})"
        )
    print(f"written to {options.output}: attention_entropy.json, attention_entropy.png")


class Look(NamedTuple):
    """Entropies of a person's frames at each level of noise."""

    animator: Animator
    levels: Sequence[int]
    prepare: Callable[..., Any]
    measure: Callable[..., Any]

    @classmethod
    def at(cls, animator: Animator, levels: Sequence[int]) -> Look:
        """Compiled once for all people."""
        prepare, measure = (jax.jit(partial(step, animator.system)) for step in (_prepare, _measure))
        return cls(animator, levels, prepare, measure)

    def __call__(self, person: Case, sound: np.ndarray, noise: PRNGKeyArray) -> list[Any]:
        """By level: condition → block → entropy. `sound`: samples that the person is told to speak."""
        params = self.animator.params
        driving = signals_of(self.animator, person, sound).batch(np.arange(len(person.truth)))
        latents, cond = self.prepare(params, person.truth[None], person.portrait[None], driving)
        drawn = jax.random.normal(noise, latents.shape)
        return [jax.device_get(self.measure(params, latents, drawn, jnp.array(t), cond)) for t in self.levels]


def _prepare(system: Any, params: Any, frames: Any, portrait: Any, driving: Any) -> tuple[Any, Any]:
    """Clean latents of the true frames, and what the denoiser is told."""
    latents = system.to_latents(params, to_pm1(frames))
    return latents, system.encode_driving(params, system.encode_portrait(params, portrait), driving)["cond"]


def _measure(system: Any, params: Any, latents: Any, noise: Any, level: Any, cond: Any) -> Any:
    """Entropies at one level of noise."""
    frames = latents.shape[1]
    noisy = add_noise(system.schedule, latents[0], noise[0], jnp.broadcast_to(level, (frames,)))[None]
    base, sound = system.denoiser_config.num_heads, system.audio_config.num_heads
    heads = {"text": base, "identity": base, "sound": sound}
    return attention_entropies(
        system.denoiser, params["denoiser"], heads, noisy, jnp.full((1,), level, jnp.float32), cond
    )
