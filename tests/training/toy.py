"""A task and a loader small enough to train in a blink; run as a program, it is the victim of the kill test."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from portrait_jax.sharding.mesh import make_mesh
from portrait_jax.training.loop import train
from portrait_jax.training.task import Adversary, LoopOptions, OptimizerConfig, Stage

WIDTH = 8


def toy_stage(**changes) -> Stage:
    settings = {
        "trainable": ("denoiser/.*",),
        "steps": 12,
        "batch_size": 16,
        "optimizer": OptimizerConfig(lr=1e-2, warmup_steps=2, schedule="cosine", clip_norm=1.0),
        "ema_decay": 0.9,
    }
    return Stage(**{**settings, **changes})


@dataclass
class ToyTask:
    """A frozen encoder and a trained denoiser: y = tanh(x E) D, a noisy regression."""

    stage: Stage = field(default_factory=toy_stage)
    noise: float = 0.1
    traces: int = 0
    name: str = "toy"

    @property
    def stages(self):
        return {"only": self.stage}

    def init(self, rng, stage):
        first, second = jax.random.split(rng)
        return {
            "encoder": {"dense": {"kernel": jax.random.normal(first, (WIDTH, 16))}},
            "denoiser": {
                "dense": {"kernel": 0.1 * jax.random.normal(second, (16, WIDTH)), "bias": jnp.zeros(WIDTH)},
                "motion": {"scale": jnp.ones(WIDTH)},
            },
        }

    def loss(self, params, batch, rng, stage):
        self.traces += 1
        hidden = jnp.tanh(batch["x"] @ params["encoder"]["dense"]["kernel"])
        denoiser = params["denoiser"]
        out = (hidden @ denoiser["dense"]["kernel"] + denoiser["dense"]["bias"]) * denoiser["motion"]["scale"]
        target = jnp.sin(batch["x"]) + self.noise * jax.random.normal(rng, batch["x"].shape)
        loss = jnp.square(out - target).mean()
        return loss, {"error": jnp.abs(out - target).mean()}

    def samples(self, params, batch, rng, stage):
        return {"strip": np.full((4, 8, 3), 128, np.uint8)}


CRITIC = Adversary(("critic/.*",), OptimizerConfig(lr=3e-2, b1=0.5, weight_decay=0.0, clip_norm=0.1))


@dataclass
class ToyRivals(ToyTask):
    """The toy with a linear critic that learns to tell its outputs from inputs; the denoiser works against it."""

    stage: Stage = field(default_factory=lambda: toy_stage(adversary=CRITIC))

    def init(self, rng, stage):
        kernel = jax.random.normal(jax.random.fold_in(rng, 1), (WIDTH, 1))
        return {**super().init(rng, stage), "critic": {"dense": {"kernel": kernel}}}

    def out(self, params, batch):
        hidden = jnp.tanh(batch["x"] @ params["encoder"]["dense"]["kernel"])
        denoiser = params["denoiser"]
        return (hidden @ denoiser["dense"]["kernel"] + denoiser["dense"]["bias"]) * denoiser["motion"]["scale"]

    def judge(self, params, x):
        return (x @ params["critic"]["dense"]["kernel"]).mean()

    def loss(self, params, batch, rng, stage):
        loss, metrics = super().loss(params, batch, rng, stage)
        return loss - self.judge(params, self.out(params, batch)), metrics

    def adversary_loss(self, params, batch, rng, stage):
        fake, real = self.judge(params, self.out(params, batch)), self.judge(params, batch["x"])
        return jax.nn.relu(1 + fake) + jax.nn.relu(1 - real), {"judged_real": real}


class ToyLoader:
    """Batch n is drawn from seed n."""

    def __init__(self, batch_size: int = 16, pause: float = 0.0) -> None:
        self.position, self.batch_size, self.pause = 0, batch_size, pause

    def __next__(self):
        time.sleep(self.pause)
        rng = np.random.default_rng(self.position)
        self.position += 1
        return {"x": rng.normal(size=(self.batch_size, WIDTH)).astype(np.float32)}

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


def main(workdir: str, pause: float, every: int = 4) -> None:
    options = LoopOptions(checkpoint_every=every, log_every=1)
    mesh = make_mesh(devices=jax.devices()[:1])
    train(ToyTask(), "only", ToyLoader(pause=pause), workdir, options=options, mesh=mesh, quiet=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), *map(int, sys.argv[3:]))
