"""From nothing to signals: broker, history, model, worker, signals, summary."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from sep_stream.convert import MarketDataConverter
from sep_stream.demo.market import Market
from sep_stream.demo.tally import SignalTally
from sep_stream.errors import DependencyError
from sep_stream.history import EventLog
from sep_stream.market.avro import Schemas
from sep_stream.market.events import EventBatch
from sep_stream.market.timeframes import TIMEFRAMES, US_PER_S
from sep_stream.runtime import topics
from sep_stream.runtime.embedded import OPTIONAL_PARTS, EmbeddedKafka, EmbeddedStack
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.log_reader import LogFollower, LogReader
from sep_stream.runtime.security_folder import ADMIN, SecurityFolder
from sep_stream.runtime.settings import ENVIRONMENT_PREFIX, NO_REGISTRY, NO_SECURITY, NO_STORES, Settings
from sep_stream.runtime.topology import Topology
from sep_stream.runtime.users import admit_roles
from sep_stream.scoring.model import Model, ModelParameters
from sep_stream.sources.activation import activate
from sep_stream.sources.publisher import Publisher
from sep_stream.stores.model_store import local_folder, save_model
from sep_stream.stores.preparing import prepare
from sep_stream.stores.schemas import declared_schemas
from sep_stream.training.series import closed_bars
from sep_stream.training.train import train
from sep_stream.worker.caught_up import CaughtUp
from sep_stream.worker.runner import ALL_STAGES, STAGES

PREFIX: Final = "demo."
LIVE_STEPS: Final = 20
"""The last distinct event times: published at a pace, to see how long a signal takes."""
LIVE_STEP_S: Final = 0.08
DAYS_SHOWN: Final = 3
STANDS_STILL_S_MAX: Final = 60.0
WORKER_STOP_S_MAX: Final = 30.0
_POLL_S: Final = 0.05

Take = Callable[[float], None]
"""Takes in the signals that come within so many seconds."""


def tell(
    settings: Settings, make_market: Callable[[], Market], secure: bool, keep: bool, with_stores: bool = False
) -> None:
    """Play a market on an embedded stack of its own, below the settings' data folder.

    with_stores: with a database and a cache, and what they hold in the end
    """
    console = Console()
    topology, schemas = Topology.load(), declared_schemas()
    folder = settings.data_dir.expanduser().absolute() / "demo"
    servers, security = EmbeddedStack(folder), SecurityFolder(folder)
    servers.stop()
    servers.wipe()

    def note(message: str) -> None:
        console.print(f"· {message}")

    with ExitStack() as stack:
        if not keep:
            stack.callback(servers.stop)
        with ThreadPoolExecutor(1) as beside:
            starting = beside.submit(EmbeddedKafka(folder).start, note, secure)
            market = make_market()
            console.print(f"· {market.title}", style="bold")
            address = starting.result()
        settings = settings.model_copy(
            update={"brokers": address, "prefix": PREFIX, "data_dir": folder, "models_url": str(folder / "models")}
            | NO_SECURITY
            | NO_STORES
            | NO_REGISTRY
        )

        def as_role(name: str) -> Settings:
            return settings.model_copy(update=security.credentials(name))

        topics.create(as_role(ADMIN), topology)
        topics.bring_up_to_date(as_role(ADMIN), topology)
        if secure:
            before = admit_roles(settings, security, topology)
            console.print(f"· secured: TLS, {len(topology.roles)} users, {len(before.missing)} ACLs")
        for part, at in servers.start(OPTIONAL_PARTS if with_stores else (), note, secure):
            for line in prepare(part.name, settings):
                note(f"{part.title} at {at}: {line}")
        stages = ALL_STAGES if with_stores else STAGES
        settings = settings.model_copy(update={"trade": "gated"} if with_stores else {})
        check_worker = stack.enter_context(_worker(as_role("worker"), stages, folder / "worker.log", console))
        _play(as_role, topology, schemas, market, console, check_worker, stages)
        check_worker()
        if with_stores:
            from sep_stream.demo.stores import show_stores

            symbols = [topology.instruments.symbols[at] for at in np.unique(market.events.instrument).tolist()]
            show_stores(as_role("read"), symbols, console)
    if keep:
        console.print(
            f"\nThe stack runs on at {address}. Look around:\n"
            f"  sep-stream tail signals --data-dir {folder} --prefix {PREFIX} --from beginning --count 5\n"
            f"  sep-stream status --data-dir {folder} --prefix {PREFIX}\n"
            f"  sep-stream down --data-dir {folder} --wipe",
            soft_wrap=True,
        )
    else:
        console.print(
            "\nTry next:\n  sep-stream demo --keep        leaves the stack running, to look around\n"
            "  sep-stream demo candles.csv --instrument EUR/USD        your own data\n"
            "  sep-stream up        the same, step by step: see the README"
        )


@contextmanager
def _worker(settings: Settings, stages: Sequence[str], log: Path, console: Console) -> Iterator[Callable[[], None]]:
    """A worker process of its own, stopped at the end. Gives what raises DependencyError once it runs no more."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "sep_stream", "worker", "--stages", ",".join(stages)],
            env=_without_settings(os.environ) | settings.environment(),
            stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
    console.print(f"· a worker runs, pid {process.pid}, log {log}")

    def check() -> None:
        if process.poll() is not None:
            raise DependencyError(f"the worker ended with exit code {process.returncode}; see {log}")

    try:
        yield check
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(WORKER_STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that are no settings: those of the demo's own broker are given whole."""
    names = {ENVIRONMENT_PREFIX + name.upper() for name in Settings.model_fields}
    return {name: value for name, value in environment.items() if name not in names}


def _play(
    as_role: Callable[[str], Settings],
    topology: Topology,
    schemas: Schemas,
    market: Market,
    console: Console,
    check_worker: Callable[[], None],
    stages: Sequence[str],
) -> None:
    begun_s = time.monotonic()
    cut = market.history_rows
    settings = as_role("read")
    with Publisher(
        librdkafka(as_role("ingest")),
        schemas,
        topology.instruments,
        settings.topic("market.events"),
        settings.partitions,
    ) as publisher:
        publisher.publish(market.events.take(slice(0, cut)))
        publisher.flush()
        seconds = time.monotonic() - begun_s
        console.print(f"· published {cut:,} events of history, {cut / seconds:,.0f} a second")
        _model(as_role("model"), topology, schemas, market, console)
        follower = LogReader(settings).follow(settings.topic("signals"), dict.fromkeys(range(settings.partitions), 0))
        tally = SignalTally(schemas)
        with Live(_table(tally, market), console=console, refresh_per_second=4, transient=True) as live:

            def take(wait_s: float) -> None:
                _take(follower, tally, live, market, wait_s)

            paced = _paced_rows(market, cut)
            publisher.publish(market.events.take(slice(cut, paced)))
            publisher.flush()
            _until_caught_up(settings, stages, take, check_worker)
            caught_up_s = time.monotonic()
            _publish_at_a_pace(publisher, market, paced, tally, take)
            _until_caught_up(settings, stages, take, check_worker)
        follower.close()
    if tally.shown:
        console.print(_table(tally, market))
    _summary(settings, market, tally, console, paced / (caught_up_s - begun_s))


def _model(settings: Settings, topology: Topology, schemas: Schemas, market: Market, console: Console) -> None:
    """Train on the log's history and put the model in force, if there is a row to train on."""
    converter = MarketDataConverter(topology.instruments, settings.convert_parameters())
    series = closed_bars(converter, EventLog(settings, topology, schemas).batches())
    parameters = ModelParameters(window=settings.window_params(), deadband=settings.deadband)
    model = train(series, parameters, market.cut_s)
    blocks = _blocks(model)
    if not any(blocks.values()):
        _explain_no_model(parameters, {key: len(bars) for key, bars in series.items()}, console)
        return
    folder = save_model(model, local_folder(settings.models_root()) / model.model_id)
    symbols = sorted({library.symbol for library in model.libraries})
    activate(settings, schemas, folder, model.model_id, symbols, market.cut_s)
    rows = sum(len(library) for library in model.libraries)
    console.print(f"· trained model {model.model_id[:12]}… on {rows:,} windows of history and put it in force")
    for (symbol, timeframe), count in blocks.items():
        if count < parameters.min_blocks:
            console.print(
                f"· {symbol} {timeframe} will hold: its history makes {count} blocks of {parameters.window.forward} "
                f"windows, a direction needs {parameters.min_blocks} ({_bars_needed(parameters, timeframe):,} bars)"
            )


def _blocks(model: Model) -> dict[tuple[str, str], int]:
    size = model.parameters.window.forward
    return {(library.symbol, library.timeframe): -(-len(library) // size) for library in model.libraries}


def _bars_needed(parameters: ModelParameters, timeframe: str) -> int:
    """Bars whose windows fill the blocks that a direction needs."""
    window, horizon = parameters.window, parameters.horizon_bars[TIMEFRAMES.index(timeframe)]
    return window.window_bars + horizon + (parameters.min_blocks - 1) * window.forward


def _explain_no_model(parameters: ModelParameters, bars: dict[tuple[str, str], int], console: Console) -> None:
    window = parameters.window
    first = window.window_bars + parameters.horizon_bars[0]
    have = max((count for (_, timeframe), count in bars.items() if timeframe == "M1"), default=0)
    console.print(
        f"· no model: the history holds {have:,} M1 bars; the first window with a known outcome takes {first:,} "
        f"({window.history} + {window.forward} + a horizon of {parameters.horizon_bars[0]}), "
        f"and a direction {_bars_needed(parameters, 'M1'):,}. Bars and windows are made all the same."
    )


def _paced_rows(market: Market, cut: int) -> int:
    """The first row of the last few event times."""
    times = np.unique(market.events.event_time[cut:])
    return int(np.searchsorted(market.events.event_time, times[-min(LIVE_STEPS, len(times))]))


def _publish_at_a_pace(publisher: Publisher, market: Market, first: int, tally: SignalTally, take: Take) -> None:
    """The events of one time together, then a pause in which signals are taken in."""
    times = market.events.event_time
    for start, stop in pairwise([*(first + np.unique(times[first:], return_index=True)[1]).tolist(), len(times)]):
        step = market.events.take(slice(start, stop))
        sent_s = time.monotonic()
        publisher.publish(step)
        _note_sent(publisher, step, tally, sent_s)
        while (left_s := sent_s + LIVE_STEP_S - time.monotonic()) > 0:
            take(left_s)
    publisher.flush()


def _note_sent(publisher: Publisher, step: EventBatch, tally: SignalTally, now_s: float) -> None:
    """When the candles that close a minute were sent."""
    for symbol, time_us, duration_s in zip(
        publisher.symbols(step), step.event_time.tolist(), step.duration_s.tolist(), strict=True
    ):
        if duration_s > 0:
            tally.sent_s[symbol, time_us // US_PER_S + duration_s] = now_s


def _until_caught_up(settings: Settings, stages: Sequence[str], take: Take, check_worker: Callable[[], None]) -> None:
    names = {d.name: settings.topic(d.name) for d in Topology.load().topics}
    caught_up = CaughtUp(settings, stages, names)
    caught_up.mark_start()
    moved_s, handled = time.monotonic(), caught_up.progress()
    for _ in caught_up.steps():
        take(_POLL_S)
        check_worker()
        if time.monotonic() - moved_s > STANDS_STILL_S_MAX:
            before, handled = handled, caught_up.progress()
            if handled == before:
                counts = ", ".join(f"{stage} {count}" for stage, count in handled.items())
                raise DependencyError(f"the worker has handled nothing for {STANDS_STILL_S_MAX:.0f} s: {counts}")
            moved_s = time.monotonic()
    take(_POLL_S)


def _take(follower: LogFollower, tally: SignalTally, live: Live, market: Market, wait_s: float) -> None:
    """Take in the signals that have come."""
    messages = follower.poll(wait_s)
    if messages:
        tally.add([message.value() for message in messages], time.monotonic())
        live.update(_table(tally, market))


def _table(tally: SignalTally, market: Market) -> Table:
    title = "Signals" + (" of a SYNTHETIC market" if market.synthetic else "")
    table = Table(title=f"{title} ({sum(tally.signals.values()):,})", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("at (UTC)", "symbol", "", "side", "conf.", "gate", "rests on"):
        table.add_column(name, no_wrap=name != "gate", overflow="fold")
    for record in tally.shown:
        days = dict.fromkeys(
            time.strftime("%m-%d", time.gmtime(match["anchor_time"])) for match in json.loads(record["matches"])
        )
        table.add_row(
            f"{record['available_at']:%m-%d %H:%M}",
            record["instrument"],
            record["timeframe"],
            record["direction"],
            f"{record['confidence']:.3f}",
            _verdict(record),
            " ".join(list(days)[:DAYS_SHOWN]),
        )
    return table


def _verdict(record: dict[str, Any]) -> str:
    """What the gate says, or why there is no direction."""
    if record["reason"]:
        return f"no direction: {record['reason']}"
    failed = json.loads(record["gate_failed"])
    if failed:
        return "failed: " + ", ".join(failed)
    return "passed, confirmed" if record["confirmed"] else "passed"


def _summary(settings: Settings, market: Market, tally: SignalTally, console: Console, events_per_s: float) -> None:
    reader = LogReader(settings)
    counts = {
        name: sum(reader.watermarks(settings.topic(name), p)[1] for p in range(settings.partitions))
        for name in ("market.events", "bars", "windows", "metrics", "signals", "late", "dead.letters")
    }
    table = Table(title="Summary" + (" (synthetic data)" if market.synthetic else ""), title_justify="left")
    table.add_column("what")
    table.add_column("figure", justify="right")
    for name, count in counts.items():
        table.add_row(name, f"{count:,}")
    for name, count in sorted(tally.signals.items()):
        table.add_row(f"signals {name.split()[0]}, gate {name.split()[1]}", f"{count:,}")
    for name, count in (+tally.failed).most_common():
        table.add_row(f"gate failed on {name}", f"{count:,}")
    for name, count in sorted((+tally.holds).items()):
        table.add_row(f"HOLD {name.split()[0]}, reason {name.split()[1]}", f"{count:,}")
    table.add_row("signals confirmed", f"{tally.confirmed:,}")
    table.add_row("events a second, through all stages", f"{events_per_s:,.0f}")
    if tally.latency_ms:
        p50, p99 = np.percentile(tally.latency_ms, (50, 99))
        table.add_row("event to signal, paced part", f"p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    console.print(table)
