"""`sep-stream bench`: the benchmarks of `bench/`, as ratios."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import click

from sep_stream.cli._common import progress
from sep_stream.errors import DependencyError
from sep_stream.runtime.resources import resource

NAMES: Final = (
    "convert",
    "flood",
    "log",
    "cpu_engine",
    "nearest",
    "gpu",
    "publish",
    "latency",
    "recovery",
    "backtest",
    "cache",
    "database",
)


@click.command(
    epilog="""\b
Examples:
  sep-stream bench cpu_engine nearest --seconds 5
  sep-stream bench --json > figures.ndjson"""
)
@click.argument("names", nargs=-1, metavar="[NAME]...", type=click.Choice(NAMES))
@click.option("--runs", default=3, show_default=True, type=click.IntRange(min=1), help="Medians are of so many.")
@click.option(
    "--seconds", default=60.0, show_default=True, type=click.FloatRange(min=1), help="Of steady work in each figure."
)
@click.option("--json", "as_json", is_flag=True, help="Print each figure as a line of JSON.")
def bench(names: tuple[str, ...], runs: int, seconds: float, as_json: bool) -> None:
    """Measure beside baselines, each on an embedded broker or database of its own where it needs one.

    NAME is one or more of convert, flood, log, cpu_engine, nearest, gpu, publish, latency,
    recovery, backtest, cache, database. Without one, all run: more than an hour. Let nothing else run meanwhile.
    """
    folder = resource("bench")
    flags = ["--runs", str(runs), "--seconds", str(seconds), *(["--json"] if as_json else [])]
    for name in names or NAMES:
        progress(f"{name} …")
        done = subprocess.run([sys.executable, str(folder / f"{name}.py"), *flags], check=False)
        if done.returncode:
            raise DependencyError(f"bench {name}: ended with exit code {done.returncode}; its message is above")
