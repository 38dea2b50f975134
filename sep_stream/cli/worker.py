"""`sep-stream worker`: runs the stages of the pipeline."""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING

import click

from sep_stream.cli._common import engine_option, settings_options
from sep_stream.errors import ConfigurationError, SepError
from sep_stream.runtime.settings import Settings

if TYPE_CHECKING:
    from sep_stream.worker.runner import Worker

STAGES = "convert,metrics,score,settle"


@click.command(
    epilog="""\b
Examples:
  sep-stream worker
  sep-stream worker --stages convert,metrics
  sep-stream worker --stages cache
  sep-stream worker --processes 2 --until-caught-up"""
)
@click.option(
    "--stages",
    default=STAGES,
    show_default=True,
    help="The stages to run, separated by commas; beside these: cache, into Redis.",
)
@engine_option
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    help="Run this many worker processes and restart those that end. Left out: one, in the foreground, no restarts.",
)
@click.option(
    "--trade",
    type=click.Choice(["confirmed", "gated", "all"]),
    help="Which signals settle trades on paper.  [default: confirmed]",
)
@click.option(
    "--max-open",
    type=click.IntRange(1, 1_000),
    help="Paper trades open at once, by instrument and timeframe.  [default: 1]",
)
@click.option("--until-caught-up", is_flag=True, help="Stop once all that the topics hold has been handled.")
@click.option(
    "--rebuild-state",
    is_flag=True,
    help="Make the states of convert and settle anew from the log, without their snapshots: of each partition at its "
    "next record.",
)
@settings_options
def worker(
    settings: Settings,
    stages: str,
    engine: str,
    processes: int | None,
    trade: str | None,
    max_open: int | None,
    until_caught_up: bool,
    rebuild_state: bool,
) -> None:
    """Turn market events into bars, windows, metrics, signals and trades on paper.

    A crash loses nothing: what was not committed is handled again, with the same results. Start more workers, here or
    elsewhere, to share the partitions.
    """
    from sep_stream.gpu.cupy_device import gpu_facts
    from sep_stream.runtime import topics
    from sep_stream.runtime.security_folder import as_role
    from sep_stream.runtime.topology import Topology
    from sep_stream.stores.schemas import schemas_in_force
    from sep_stream.worker.runner import Worker, check_stages
    from sep_stream.worker.supervisor import Supervisor
    from sep_stream.worker.warm_up import warm_up

    try:
        names = check_stages([name.strip() for name in stages.split(",") if name.strip()])
    except ConfigurationError as error:
        raise click.BadParameter(str(error), param_hint="--stages") from error
    traded = {name: value for name, value in (("trade", trade), ("max_open", max_open)) if value is not None}
    settings = as_role(settings.model_copy(update=traded), names[0] if len(names) == 1 else "worker")
    if engine == "cuda":
        gpu_facts()  # said once and now, where there is none
    topics.check(settings, Topology.load(), names)
    schemas_in_force(settings, register=True)  # a registry that does not answer is told before anything long begins
    warm_up(names)
    if processes is None:
        _run(Worker(settings, names, engine, until_caught_up, rebuild_state))
        return
    command = ["worker", "--stages", ",".join(names), "--engine", engine]
    command += ["--until-caught-up"] if until_caught_up else []
    command += ["--rebuild-state"] if rebuild_state else []
    Supervisor(command, processes, settings.environment()).run()


def _run(worker: Worker) -> None:
    """Run a worker; after an error end the process at once: nothing may be committed any more."""
    try:
        worker.run()
    except SepError as error:
        click.echo(f"sep-stream: {error}", err=True)
    except Exception:  # noqa: BLE001 - a fault of ours: told whole, and the process ends all the same
        traceback.print_exc()
    else:
        return
    sys.stderr.flush()
    os._exit(1)
