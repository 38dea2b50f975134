"""What every command says of itself, and how wrong usage is told."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import click
import pytest
from click.testing import CliRunner, Result

from sep_stream.cli import COMMANDS, cli
from tests.cli.commands import commands

ALL = commands()
LEAVES = [words for words, command in ALL.items() if not isinstance(command, click.Group)]


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, list(args))


@pytest.mark.parametrize("words", list(ALL), ids=" ".join)
def test_help_says_what_a_command_does(words: tuple[str, ...]) -> None:
    result = run(*words, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: cli {' '.join(words)}".rstrip())
    assert len(result.output.splitlines()) > 5


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_help_of_a_command_has_an_example_of_it(words: tuple[str, ...]) -> None:
    examples = run(*words, "--help").output.partition("Example")[2]
    spelt = " ".join(words).replace("ingest files", "ingest")
    assert f"sep-stream {spelt}" in examples


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_examples_use_flags_that_there_are(words: tuple[str, ...]) -> None:
    known = {flag for parameter in ALL[words].params for flag in parameter.opts}
    _, _, examples = run(*words, "--help").output.partition("Example")
    used = {word for word in examples.partition("Options:")[0].split() if word.startswith("--")}
    assert used <= known


@pytest.mark.parametrize("words", list(ALL), ids=" ".join)
def test_an_unknown_flag_is_wrong_usage(words: tuple[str, ...]) -> None:
    result = run(*words, "--no-such-flag")
    assert result.exit_code == 2
    assert "--no-such-flag" in result.output


def test_an_unknown_command_is_wrong_usage() -> None:
    result = run("fly")
    assert result.exit_code == 2
    assert "No such command 'fly'" in result.output


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("worker", "--stages", "convert,fly"), "fly"),
        (("worker", "--stages", ""), "--stages"),
        (("worker", "--processes", "0"), "--processes"),
        (("worker", "--engine", "abacus"), "abacus"),
        (("topics", "describe"), "NAME"),
        (("model", "show"), "MODEL_ID"),
        (("model", "train", "--until", "2024-02-05T00:00:00Z"), "--from"),
        (("model", "train", "--from", "c.csv"), "--until"),
        (("model", "train", "--from", "c.csv", "--until", "2024-02-05"), "has no zone"),
        (("model", "train", "--from", "c.csv", "--until", "then"), "2024-02-05T00:00:00Z, got 'then'"),
        (("demo", "--days", "7"), "--days"),
        (("doctor", "--log-level", "loud"), "loud"),
    ],
    ids=" ".join,
)
def test_a_wrong_flag_is_told_by_its_name(args: tuple[str, ...], told: str) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert told in result.output


def test_every_command_is_in_the_list_with_a_line_of_help() -> None:
    output = run("--help").output
    assert all(f"  {name} " in output and line in output for name, (_, _, line) in COMMANDS.items())


def test_the_version_is_that_of_the_package() -> None:
    assert version("sep-stream") in run("--version").output


def test_help_is_quick_because_it_imports_little() -> None:
    code = (
        "import sys; from sep_stream.cli import cli; cli(['worker', '--help'], standalone_mode=False); "
        "sys.exit(', '.join({'numba', 'faust', 'confluent_kafka', 'pyarrow'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
