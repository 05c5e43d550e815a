"""How every entry point starts and ends: flags in, one clear message and an exit status out.

An entry point defines absl flags at module level (`config_flags.DEFINE_config_file("config")` for configs) and ends so:

    if __name__ == "__main__":
        cli.run(main, __doc__, interrupted="the same command goes on where it was")

Statuses: 0 done; 2 the user can mend it (message on standard error, no traceback); 130 interrupted. Anything else that
is raised is a bug and keeps its traceback.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from absl import logging as absl_logging

from portrait_jax.errors import ConfigError, InputFileError, PortraitError, nearest

OVERRIDE = re.compile(r"--?(\w+)\.([\w.\[\]]+)(?:=|$)")
"""`--config.train.steps=3`: the config's flag and the path of the key."""
OK, USER_ERROR, INTERRUPTED = 0, 2, 130


def run(main: Callable[..., Any], description: str | None = "", *, interrupted: str = "") -> None:
    """Parses the command line, runs `main` (with the remaining arguments, if it takes any) and exits.

    Args:
        main: the program.
        description: what --help prints above the flags.
        interrupted: what to do after Ctrl-C, where the KeyboardInterrupt says nothing itself.
    """
    sys.exit(status(main, sys.argv, description or "", interrupted))


def status(main: Callable[..., Any], argv: Sequence[str], description: str = "", interrupted: str = "") -> int:
    """`run` without the exit: returns the status."""
    quieten()
    if any(argument in ("--help", "-h", "-help", "--helpfull") for argument in argv[1:]):
        print(help_text(main, description))
        return OK
    try:
        rest = parse(argv)
        main(rest) if inspect.signature(main).parameters else main()
    except PortraitError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as error:
        print("; ".join(part for part in ("interrupted", str(error) or interrupted) if part), file=sys.stderr)
        return INTERRUPTED
    return OK


def parse(argv: Sequence[str]) -> list[str]:
    """Parses absl flags and `--config.x.y=value` overrides; returns what is left, program name first.

    Raises:
        ConfigError: for a flag, a config file or a config key that does not exist (naming the nearest one), and for
            a value of the wrong type.
    """
    try:
        rest = flags.FLAGS(list(argv))
    except flags.Error as error:
        raise ConfigError(tidy(str(error))) from error
    except (AttributeError, KeyError) as error:
        raise ConfigError(unknown_key(argv) or str(error.args[0])) from error
    if len(rest) > 1:
        raise ConfigError(f"unexpected argument '{rest[1]}'; options are written --name=value")
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if type(flag.value).__name__ == "_ErrorConfig":
            # Here, since entry points without a config run where ml_collections is not installed.
            from ml_collections import config_flags

            raise ConfigError(f"--{name}: there is no config file '{config_flags.get_config_filename(flag)}'")
    return rest


def unknown_key(argv: Sequence[str]) -> str:
    """Names the first overridden key that its config does not have, with the nearest one or all there are."""
    for name, path in (match.groups() for match in map(OVERRIDE.match, argv) if match):
        section, above = plain_config(name, argv), ""
        for key in re.sub(r"\[.*?\]", "", path).split("."):
            if not hasattr(section, "keys"):
                return f"the config has no key '{key}': '{above}' is a single value"
            if key not in section:
                return f"the config has no key '{key}'{nearest(key, list(section.keys()))}"
            section, above = section[key], f"{above}.{key}".lstrip(".")
    return ""


def plain_config(name: str, argv: Sequence[str]) -> Any:
    """A config as its file gives it, without overrides (which ml_collections reads from `sys.argv`)."""
    before, sys.argv = sys.argv, [argument for argument in argv if not OVERRIDE.match(argument)]
    try:
        flags.FLAGS(sys.argv, known_only=True)
    finally:
        sys.argv = before
    return flags.FLAGS[name].value


def output_folder(name: str, value: str | os.PathLike[str]) -> Path:
    """The absolute path of a folder to write into; nothing is made yet.

    Raises:
        InputFileError: if it is a file, or could not be made or written.
    """
    path = Path(value).absolute()
    there = next(folder for folder in (path, *path.parents) if os.path.exists(folder))
    if not there.is_dir():
        raise InputFileError(f"--{name} {value}: {there} is a file; give a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputFileError(f"--{name} {value}: {there} may not be written to; give another folder")
    return path


def tidy(message: str) -> str:
    """Shortens absl's message: a config file's traceback becomes its last line."""
    if re.match(r"Unknown command line flag 'config\.", message):
        return f"{message}: keys of a config follow --config FILE"
    if "Traceback (most recent call last)" in message:
        head = message.split(": Error whilst parsing", 1)[0]
        return f"{head}: {message.strip().splitlines()[-1].removeprefix('portrait_jax.errors.')}"
    return re.sub(r"Did you mean: (\S+) \?", r"Did you mean --\1?", message)


def help_text(main: Callable[..., Any], description: str) -> str:
    """The entry point's docstring and its own flags."""
    name = main.__module__
    own = flags.FLAGS.get_key_flags_for_module(sys.argv[0] if name == "__main__" else name)
    lines = [f"  --{flag.name}: {flag.help}" for flag in own if "." not in flag.name]
    return "\n".join([description.strip(), "", "Options:", *lines])


def quieten() -> None:
    """Hides libraries' notes that a user can't use; warnings and errors stay."""
    absl_logging.set_verbosity(absl_logging.ERROR)
    absl_logging.use_absl_handler()
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)
