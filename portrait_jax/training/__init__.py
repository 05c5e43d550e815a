"""Training: the task protocol (here), and by module: `loop.train`, `params.load_params`, `checkpoints`, `step`.

Only the protocol is imported here, so that a task's module needs neither orbax nor rich.
"""

from portrait_jax.training.task import LoopOptions, OptimizerConfig, Stage, Task

__all__ = ["LoopOptions", "OptimizerConfig", "Stage", "Task"]
