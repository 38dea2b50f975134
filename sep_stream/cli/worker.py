"""`sep-stream worker`: runs the stages of the pipeline."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING

import click
import structlog

from sep_stream.cli._common import engine_option, explained, settings_options
from sep_stream.errors import ConfigurationError, SepError
from sep_stream.runtime.binding.cpu_list import parse_cpus
from sep_stream.runtime.settings import Settings

if TYPE_CHECKING:
    from sep_stream.runtime.binding.plan import Plan
    from sep_stream.worker.runner import Worker

STAGES = "convert,metrics,score,settle"
WITHOUT_GPU = ("reference", "cpu")
"""The engines that never use one."""

log = structlog.get_logger(__name__)


def _checked_bind(_: click.Context, __: click.Parameter, value: str) -> str:
    if value not in ("auto", "none"):
        try:
            parse_cpus(value)
        except ConfigurationError as error:
            raise click.BadParameter(f"{error}; or auto, or none") from error
    return value


@click.command(
    epilog="""\b
Examples:
  sep-stream worker
  sep-stream worker --stages convert,metrics
  sep-stream worker --stages cache
  sep-stream worker --processes 2 --until-caught-up
  sep-stream worker --processes 4 --bind auto
  sep-stream worker --bind 0-3,8"""
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
    "--bind",
    default="none",
    show_default=True,
    metavar="auto|none|CPUSET",
    callback=_checked_bind,
    help="Bind each process and its memory. auto: to cores of one NUMA node, first that of the GPU; CPUSET (0-3,8 or "
    "0xff): to these CPUs, shared out among the processes. `doctor --topology` shows the plan.",
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
    bind: str,
    trade: str | None,
    max_open: int | None,
    until_caught_up: bool,
    rebuild_state: bool,
) -> None:
    """Turn market events into bars, windows, metrics, signals and trades on paper.

    A crash loses nothing: what was not committed is handled again, with the same results. Start more workers, here or
    elsewhere, to share the partitions.
    """
    _end_at_once_on_interrupt()
    named = [name.strip() for name in stages.split(",") if name.strip()]
    plan = None if bind == "none" else _plan(bind, processes, engine not in WITHOUT_GPU and "metrics" in named)
    if plan is not None and processes is None:
        from sep_stream.runtime.binding.hwloc import bind_process

        bind_process(plan.shares[0])  # before the imports below, of which some start threads

    from sep_stream.gpu.cupy_device import gpu_facts
    from sep_stream.runtime import topics
    from sep_stream.runtime.security_folder import as_role
    from sep_stream.runtime.topology import Topology
    from sep_stream.stores.schemas import schemas_in_force
    from sep_stream.worker.runner import Worker, check_stages
    from sep_stream.worker.supervisor import Supervisor
    from sep_stream.worker.warm_up import warm_up

    try:
        names = check_stages(named)
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
        _run(Worker(settings, names, engine, until_caught_up, rebuild_state), settings)
        return
    command = ["worker", "--stages", ",".join(names), "--engine", engine]
    command += ["--until-caught-up"] if until_caught_up else []
    command += ["--rebuild-state"] if rebuild_state else []
    shares = plan.shares if plan else ()
    Supervisor(command, processes, settings.environment(), shares, ends_itself=until_caught_up).run()


def _end_at_once_on_interrupt() -> None:
    """Let Ctrl-C end the process as SIGTERM does, until the worker itself hears both: Python's own handler waits for
    compilers and clients, and nothing is at stake yet."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _plan(bind: str, processes: int | None, near_gpu: bool) -> Plan:
    """Who gets what; a usage error for CPUs that are not to be had."""
    from sep_stream.runtime.binding.hwloc import read_machine
    from sep_stream.runtime.binding.plan import plan, plan_for_all

    machine = read_machine(with_gpus=bind == "auto" and near_gpu)
    if bind == "auto":
        made = plan(machine, processes or 1, near_gpu)
    else:
        try:
            chosen = machine.limited_to(parse_cpus(bind))
        except ConfigurationError as error:
            raise click.BadParameter(f"{bind}: {error}", param_hint="--bind") from error
        made = plan_for_all(chosen) if processes is None else plan(chosen, processes, near_gpu=False)
    for warning in made.warnings:
        log.warning(warning)
    return made


def _run(worker: Worker, settings: Settings) -> None:
    """Run a worker, then end the process at once: after an error nothing may be committed any more, and otherwise a
    thread may still be reading a state that nobody needs."""
    code = 1
    try:
        worker.run()
        code = 0
    except Exception as error:  # noqa: BLE001 - a fault of ours is told whole, and the process ends all the same
        with contextlib.suppress(OSError):  # whoever read what we tell may be gone: that must not keep us
            if isinstance(error, SepError):
                click.echo(f"sep-stream: {explained(error, settings)}", err=True)
            else:
                traceback.print_exc()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
