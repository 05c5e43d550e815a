"""What the trainer needs to know of a system: the task protocol, its stages and their optimizers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from portrait_jax.errors import ConfigError, nearest
from portrait_jax.settings import floating, from_mapping
from portrait_jax.typing import Array, Float, Image, Params, PRNGKeyArray


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a warm-up, clipping by global norm, and gradient accumulation.

    Weight decay touches every trainable leaf, biases and norms too, as torch's AdamW does by default, but for those in `no_decay`.
    """

    name: str = "adamw"
    lr: float = 1e-4
    """Peak learning rate, per optimizer step (not per microbatch)."""
    warmup_steps: int = 0
    """Steps over which the rate grows linearly from 0 to `lr`."""
    schedule: str = "constant"
    """What follows the warm-up: `constant`; `linear` or `cosine`: a line, or half a cosine, down to 0 at the stage's last step."""
    weight_decay: float = 0.01
    no_decay: tuple[str, ...] = ()
    """Patterns as those of `Stage.trainable`, of leaves that do not decay."""
    b1: float = 0.9
    b2: float = 0.999
    clip_norm: float = 0.0
    """Largest global gradient norm; 0 leaves gradients alone."""
    accumulate: int = 1
    """Microbatches per step; must divide the batch size."""


@dataclasses.dataclass(frozen=True)
class Adversary:
    """Leaves that train against the others: on the task's `adversary_loss`, with an optimizer of their own."""

    trainable: tuple[str, ...]
    """Patterns as those of `Stage.trainable`. A leaf that a pattern of each matches is the adversary's."""
    optimizer: OptimizerConfig

    @classmethod
    def from_config(cls, section: Any, base: OptimizerConfig) -> Adversary:
        """Builds it from `train.adversary`: `trainable`, and what differs from the stage's optimizer `base`.

        Raises:
            ConfigError: for a setting that does not exist, or that both must share.
        """
        values = dict(section)
        if "accumulate" in values:
            raise ConfigError("train.adversary has no accumulate of its own: it sees the microbatches of the stage")
        parts = split_settings(values, OptimizerConfig, cls, where="train.adversary")
        optimizer = from_mapping(OptimizerConfig, {**dataclasses.asdict(base), **parts[OptimizerConfig]})
        return from_mapping(cls, parts[cls], optimizer=optimizer)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training stage: what trains, from where it starts, how and for how long."""

    trainable: tuple[str, ...]
    """Regular expressions matched from the start of `subnet/path/to/leaf`. All other leaves are frozen."""
    steps: int
    batch_size: int
    """Global batch size: examples per optimizer step over all devices and hosts."""
    frames: int = 1
    optimizer: OptimizerConfig = OptimizerConfig()
    ema_decay: float = 0.0
    """Decay of the moving average of trainable leaves; 0 keeps none. Early steps use min(decay, (1+n)/(10+n))."""
    init_from: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Subnet → source: a `.safetensors` file or the workdir of an earlier stage, read over `init`'s values.

    The subnet `*` stands for every subnet that model and source share; an entry by name wins over it. `{workdir}` in a
    source is the directory given to `launch.train`, or the one around it; `{assets}` is the package's own files.
    """
    restore: tuple[str, ...] = ()
    """Patterns (as in `trainable`) of leaves that `restore_from` gives whatever `init_from` says: what a stage begins anew."""
    restore_from: str = ""
    """Their source, as in `init_from`."""
    allow_missing: tuple[str, ...] = ()
    """Patterns (as in `trainable`) of leaves that a source may lack: they keep `init`'s values."""
    allow_unused: tuple[str, ...] = ()
    """Patterns of leaves that a source may hold and the model does not have, such as the head of a network cut short."""
    fit_inputs: tuple[str, ...] = ()
    """Patterns of kernels that may have fewer input channels in a source, or more: the further ones start at zero, so that the
    network begins with what it did before; those that the model lacks, its last ones, are left out."""
    frozen_dtype: str = "float32"
    """What leaves that do not train are kept in. What computes in bfloat16 makes them so anyhow: kept so they take half the memory;
    what computes in float32, as autoencoders' norms do, loses digits."""
    rename: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Parts of leaves' names in a source → what they are called here: one network's module under another one's name."""
    adversary: Adversary | None = None
    """What trains against the rest in the same step; None: nothing does."""

    @property
    def patterns(self) -> tuple[str, ...]:
        """Patterns of every leaf that changes, the adversary's too."""
        return self.trainable + (self.adversary.trainable if self.adversary else ())

    def __post_init__(self) -> None:
        floating(self.frozen_dtype, "train.frozen_dtype")

    @classmethod
    def from_config(cls, section: Any) -> Stage:
        """Builds a stage from a config's `train` section (a mapping or `ConfigDict`).

        Settings of optimizer, stage and loop lie in it side by side.

        Raises:
            ConfigError: for a setting that none of the three has, naming the nearest one.
        """
        parts = split_settings(section, OptimizerConfig, cls, LoopOptions)
        settings = parts[cls]
        tables = {name: dict(settings.pop(name, {})) for name in ("init_from", "rename")}
        # A flag can only change a key that is there: an empty one has room for a source that need not be given.
        tables["init_from"] = {name: source for name, source in tables["init_from"].items() if source}
        optimizer = from_mapping(OptimizerConfig, parts[OptimizerConfig])
        against = settings.pop("adversary", None)
        adversary = Adversary.from_config(against, optimizer) if against else None
        return from_mapping(cls, settings, optimizer=optimizer, adversary=adversary, **tables)


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """How a run is seeded, watched and saved; nothing here changes what a step computes, except the seed."""

    seed: int = 0
    checkpoint_every: int = 1000
    """Steps between checkpoints; the last step is always saved."""
    keep: int = 2
    """Newest checkpoints that stay on disk."""
    keep_best: int = 0
    """Checkpoints that stay beside them: those before which the mean loss was least."""
    skip_limit: int = 20
    """Steps in a row that may be skipped, for a loss or a gradient that is not finite, before the run gives up."""
    log_every: int = 10
    """Steps per line of metrics.jsonl; a line holds means over these steps."""
    sample_every: int = 0
    """Steps between sample images; 0 draws none."""

    @classmethod
    def from_config(cls, section: Any) -> LoopOptions:
        """Builds the options from a config's `train` section; see `Stage.from_config`."""
        return from_mapping(cls, split_settings(section, OptimizerConfig, Stage, cls)[cls])


def split_settings(section: Any, *classes: type, where: str = "train") -> dict[type, dict[str, Any]]:
    """Sorts the keys of one flat config section by the dataclass that has a field of that name.

    Raises:
        ConfigError: for a key that no class has, or a value out of range.
    """
    names = {cls: {field.name for field in dataclasses.fields(cls)} - {"optimizer"} for cls in classes}
    parts: dict[type, dict[str, Any]] = {cls: {} for cls in classes}
    for key, value in dict(section).items():
        owners = [cls for cls in classes if key in names[cls]]
        if not owners:
            raise ConfigError(f"{where} has no setting '{key}'{nearest(key, sorted(set().union(*names.values())))}")
        parts[owners[0]][key] = value
    return parts


@runtime_checkable
class Task(Protocol):
    """What `training.loop.train` trains: a system, an autoencoder, a landmark probe.

    A task may also have `samples(params, batch, rng, stage) -> {name: uint8 "h w 3"}` (`SamplingTask`), called every
    `sample_every` steps with the moving average of the parameters; it draws progress for people. And it may have
    `batch_keys`, the names of the arrays that `loss` reads of a batch, so that other data is refused before the run starts.
    """

    @property
    def name(self) -> str: ...

    @property
    def stages(self) -> Mapping[str, Stage]:
        """Stages by name; a config usually describes one."""
        ...

    def init(self, rng: PRNGKeyArray, stage: str) -> Params:
        """Fresh parameters, one entry per sub-network, frozen ones too. Must be traceable (it runs under `jit`)."""
        ...

    def loss(
        self, params: Params, batch: Mapping[str, Array], rng: PRNGKeyArray, stage: str
    ) -> tuple[Float[Array, ""], Mapping[str, Float[Array, ""]]]:
        """The mean loss over the batch and scalar metrics (each a mean over the batch), all float32."""
        ...


@runtime_checkable
class AdversarialTask(Task, Protocol):
    """A task some of whose leaves train against the others; a stage with an `adversary` needs one."""

    def adversary_loss(
        self, params: Params, batch: Mapping[str, Array], rng: PRNGKeyArray, stage: str
    ) -> tuple[Float[Array, ""], Mapping[str, Float[Array, ""]]]:
        """What the adversary's leaves minimise; all others are constants in it.

        It gets the parameters, the batch and the random numbers that `loss` got in this step, before either side moves:
        what both compute alike, such as the generated pictures, the compiler may compute once.
        """
        ...


@runtime_checkable
class SamplingTask(Task, Protocol):
    """A task that can draw its progress."""

    def samples(
        self, params: Params, batch: Mapping[str, Array], rng: PRNGKeyArray, stage: str
    ) -> Mapping[str, Image]: ...
