"""How every entry point ends: statuses, one clear message for each mistake, and folders that can be written."""

import os
import sys

import pytest
from absl import flags
from ml_collections import ConfigDict

from launch import cli
from portrait_jax.errors import InputFileError, NoFaceError

CONFIG = ConfigDict({"train": {"steps": 3, "lr": 1e-3, "init_from": {"a": "b"}}, "stage": "tiny"})


def test_errors_and_interrupts_become_statuses(capsys):
    def mistake():
        raise NoFaceError("no face in a.png")

    def interrupt(arguments):
        assert arguments == ["program"]
        raise KeyboardInterrupt

    def bug():
        raise ZeroDivisionError

    assert cli.status(mistake, ["program"]) == 2
    assert capsys.readouterr().err == "error: no face in a.png\n"
    assert cli.status(interrupt, ["program"]) == 130
    assert cli.status(lambda: None, ["program"]) == 0
    with pytest.raises(ZeroDivisionError):
        cli.status(bug, ["program"])


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (KeyboardInterrupt(), "interrupted; go on with --resume\n"),
        (KeyboardInterrupt("step 6 is saved"), "interrupted; step 6 is saved\n"),
    ],
)
def test_after_an_interrupt_the_user_reads_what_to_do(capsys, raised, said):
    def interrupt():
        raise raised

    assert cli.status(interrupt, ["program"], interrupted="go on with --resume") == 130
    assert capsys.readouterr().err == said


def test_help_prints_the_docstring_and_no_traceback(capsys):
    assert cli.status(lambda: None, ["program", "--help"], "Does a thing.") == 0
    assert capsys.readouterr().out.startswith("Does a thing.\n")


def test_a_config_that_fails_shows_its_last_line_only():
    message = "flag --config=x.py:no: Error whilst parsing config file:\n\nTraceback (most recent call last):\n  …\n"
    tidied = cli.tidy(message + "ValueError: no stage 'no', only 'tiny'\n")
    assert tidied == "flag --config=x.py:no: ValueError: no stage 'no', only 'tiny'"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.train.stepz=3", "the config has no key 'stepz'; did you mean 'steps'?"),
        ("--config.zzz.steps=3", "the config has no key 'zzz'; known are: stage, train"),
        ("--config.train.zzz", "the config has no key 'zzz'; known are: init_from, lr, steps"),
        ("--config.train.steps.x=3", "the config has no key 'x': 'train.steps' is a single value"),
        ("--config.train.init_from.qqq[0]=3", "the config has no key 'qqq'; known are: a"),
    ],
)
def test_a_key_that_does_not_exist_is_named_with_the_nearest_or_with_all_there_are(monkeypatch, argument, message):
    monkeypatch.setattr(cli, "plain_config", lambda name, argv: {"config": CONFIG}[name])
    assert cli.unknown_key(["program", "--config.train.steps=4", argument]) == message


def test_the_keys_are_those_of_the_file_whatever_else_is_wrong_with_the_command(monkeypatch):
    values = flags.FlagValues()
    flags.DEFINE_string("config", None, "", flag_values=values)
    monkeypatch.setattr(cli.flags, "FLAGS", values)
    before = list(sys.argv)
    assert (
        cli.plain_config("config", ["program", "--config", "file.py", "--config.train.stepz=4", "--new=3"]) == "file.py"
    )
    assert sys.argv == before


def test_a_folder_to_write_into_is_checked_and_not_made(tmp_path):
    (tmp_path / "file").write_text("")
    assert cli.output_folder("output", tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not (tmp_path / "a").exists()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputFileError, match="--output .*file is a file; give a folder"):
            cli.output_folder("output", path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputFileError, match="may not be written to"):
        cli.output_folder("output", tmp_path / "new")
