"""Turns published checkpoints into this project's parameter files and back.

    python -m launch.convert import --layout sd15_unet --input FILES --output DIR
    python -m launch.convert export --layout sd15_unet --checkpoint DIR --output FILE
    python -m launch.convert inflate --checkpoint FILE --output DIR
    python -m launch.convert inspect FILE_OR_FOLDER

`import` writes DIR/params.safetensors, which `train.init_from` reads; `export` reads such a folder or file, or a training's
workdir. `inflate` makes a video autoencoder of the image autoencoder in one. FILES are files, indices of shards, folders, or
hub:org/name; SUBNET=FILE says what a file is for. Tensor by tensor: memory stays at about twice the largest one. Layouts and more:
docs/convert.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from launch import cli
from portrait_jax import systems
from portrait_jax.autoencoders.inflate import inflated
from portrait_jax.errors import CheckpointError, ConfigError, listed, nearest
from portrait_jax.interchange import export_checkpoint, import_checkpoint, inspect, layouts, resolve
from portrait_jax.interchange.convert import Done
from portrait_jax.training.params import FILE, load_params, save_params

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Sizes for `import`: a system's config; default the published."
)
LAYOUT = flags.DEFINE_list("layout", [], "Layouts by name, separated by commas; `inspect` names a file's.")
INPUT = flags.DEFINE_multi_string("input", [], "Published files or folders, or hub:org/name; SUBNET=FILE where needed.")
CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "What to export or inflate: an import's folder, a file, or a workdir."
)
OUTPUT = flags.DEFINE_string("output", None, "Folder of an import or inflation; file, or folder, of an export.")
SUBNET = flags.DEFINE_string("subnet", None, "Another name for the layout's one sub-network, e.g. reference.")
DTYPE = flags.DEFINE_string("dtype", "", "float32, float16 or bfloat16; default as it is.")
SHARD_GB = flags.DEFINE_float("shard_gb", 0, "Cut exports into files of at most this many gigabytes.", lower_bound=0)
IGNORE_EXTRA = flags.DEFINE_bool("ignore_extra", False, "Pass over tensors that the layout does not know.")

WORDS: list[str] = []
"""The command and its files, as they stood before the first option."""


def main() -> None:
    """Runs the command."""
    if not WORDS or WORDS[0] not in COMMANDS:
        hint = nearest(WORDS[0], list(COMMANDS)) if WORDS else f"; known are: {listed(COMMANDS)}"
        raise ConfigError(f"{'unknown command' if WORDS else 'the command is missing'}{hint}")
    COMMANDS[WORDS[0]](WORDS[1:])


def import_(files: Sequence[str]) -> None:
    """Published files → DIR/params.safetensors."""
    need_layout()
    inputs = [located(text) for text in [*INPUT.value, *files]]
    if not inputs or not OUTPUT.value:
        raise ConfigError("give --input FILES and --output DIR; see --help")
    targets = None
    if CONFIG.value is not None:
        targets = jax.eval_shape(systems.build(CONFIG.value).init, jax.random.key(0), CONFIG.value.stage)
    done = import_checkpoint(
        LAYOUT.value,
        inputs,
        Path(OUTPUT.value),
        dtype=DTYPE.value,
        subnet=SUBNET.value,
        targets=targets,
        ignore_extra=IGNORE_EXTRA.value,
    )
    print(summary("imported", done))


def export(files: Sequence[str]) -> None:
    """Parameters → published names."""
    need_layout()
    if files or not CHECKPOINT.value or not OUTPUT.value:
        raise ConfigError("give --checkpoint DIR and --output FILE; see --help")
    done = export_checkpoint(
        LAYOUT.value,
        Path(CHECKPOINT.value),
        Path(OUTPUT.value),
        dtype=DTYPE.value,
        subnet=SUBNET.value,
        shard_bytes=int(SHARD_GB.value * 1e9) or None,
    )
    print(summary("exported", done))


def inspect_(files: Sequence[str]) -> None:
    """What files are."""
    if not [*files, *INPUT.value]:
        raise ConfigError("name a file or folder: python -m launch.convert inspect FILE")
    for text in [*files, *INPUT.value]:
        print(inspect(resolve(text)))


def inflate(files: Sequence[str]) -> None:
    """Sub-network `autoencoder` of any checkpoint, an image autoencoder → DIR/params.safetensors, one of videos."""
    if files or not CHECKPOINT.value or not OUTPUT.value:
        raise ConfigError("give --checkpoint FILE and --output DIR; see --help")
    params, info = load_params(CHECKPOINT.value)
    if "autoencoder" not in params:
        raise CheckpointError(f"{CHECKPOINT.value} has no autoencoder; it has {listed(params)}")
    file = cli.output_folder("output", OUTPUT.value) / FILE
    save_params(file, {"autoencoder": inflated(params["autoencoder"])}, {**info, "inflated": True})
    print(f"inflated autoencoder\n  {file}")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "import": import_,
    "export": export,
    "inflate": inflate,
    "inspect": inspect_,
}


def need_layout() -> None:
    """Raises ConfigError without --layout."""
    if not LAYOUT.value:
        names = "\n".join(f"  {layout.name}: {layout.title}" for layout in layouts().values())
        raise ConfigError(f"--layout is missing; `inspect FILE` names a file's. Known are:\n{names}")


def located(text: str) -> str:
    """An input with its path resolved; a sub-network's name before it stays."""
    head, mark, tail = text.partition("=")
    return f"{head}={resolve(tail)}" if mark and not Path(text).exists() else str(resolve(text))


def summary(what: str, done: Done) -> str:
    """What was written, in a few lines."""
    held = ", ".join(f"{name} ({count} tensors)" for name, count in done.subnets.items())
    return "\n".join([f"{what} {held}", *(f"  {note}" for note in done.notes), *(f"  {file}" for file in done.files)])


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(command and files, program and options). Several files may follow one `--input`, as a shell's pattern gives them."""
    program, *rest = argv
    start = next((i for i, word in enumerate(rest) if word.startswith("-")), len(rest))
    words, options = rest[:start], [program]
    after_input = False
    for word in rest[start:]:
        if after_input and not word.startswith("-"):
            options.append(f"--input={word}")
            continue
        after_input = word in ("--input", "-input") or (word.startswith("--input=") and not word.endswith("="))
        if word not in ("--input", "-input"):
            options.append(word)
    return words, options


if __name__ == "__main__":
    WORDS[:], sys.argv[:] = split(sys.argv)
    cli.run(main, __doc__)
