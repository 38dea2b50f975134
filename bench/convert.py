"""Quotes to bars and windows, one process, beside what else reads the same topic: `python bench/convert.py`.

One topic with quotes of eight instruments on one broker; each program reads it on the same cores, one after the
other. Ours is the whole work of `sep-stream worker --stages convert` (decode, rules, bars of three timeframes,
windows, sends, commits, snapshots). The baselines are `baselines/*.py`: stock Faust agents, per event and with
`take`, that decode with fastavro and do nothing else; Quix Streams making one-minute bars and sending them.
Memory is the worker's, in the second and the last quarter of its run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

import psutil
from _bench import BASELINES, EVENT_SCHEMA, TOPOLOGY, Figure, broker, fresh_topics, main, note, publish, quotes
from confluent_kafka.admin import AdminClient

from sep_stream.runtime import topics
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.settings import Settings

EXPECTED_PER_S: Final = 400_000
"""The topic holds what lasts so fast a worker for the time asked for."""
BASELINE_EXTRA_S: Final = 120.0
"""Beyond the measured time: to start, install and join."""


def measure(arguments: argparse.Namespace) -> Iterator[Figure]:
    with broker() as (address, folder):
        settings = fresh_topics(address, folder, "bench.")
        events = publish(settings, quotes(int(arguments.seconds * EXPECTED_PER_S)))
        note(f"{events:,} quotes published")
        rates: dict[str, list[float]] = {name: [] for name in ("ours", "faust", "faust_take", "quix")}
        growth: list[float] = []
        for run in range(arguments.runs):
            rate, memory = worker(settings, events)
            rates["ours"].append(rate)
            growth.append(memory)
            for name, script in (
                ("faust", "faust_agent.py"),
                ("faust_take", "faust_take.py"),
                ("quix", "quix_bars.py"),
            ):
                rates[name].append(baseline(script, settings, arguments.seconds, run))
            note(f"run {run + 1}: " + ", ".join(f"{name} {found[-1]:,.0f}/s" for name, found in rates.items()))
    what, unit = "quotes to bars and windows, one process", "events/s"
    yield Figure.rates(what, unit, rates["ours"], "stock Faust agent, decode only", rates["faust"], ">= 20x")
    yield Figure.rates(what, unit, rates["ours"], "stock Faust take, decode only", rates["faust_take"], ">= 20x")
    yield Figure.rates(what, unit, rates["ours"], "Quix Streams, minute bars", rates["quix"], ">= 4x")
    yield Figure(f"memory over {events / 1e6:.0f} M events, last quarter to second", "x", statistics.median(growth),
                 target="flat")  # fmt: skip


def worker(settings: Settings, events: int) -> tuple[float, float]:
    """Events a second from the first fetch to the end of the process, and how memory grew."""
    start_over(settings)
    log = settings.data_dir / "worker.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "sep_stream", "worker", "--stages", "convert", "--until-caught-up"],
            env={**os.environ, **settings.environment(), "SEP_LOG_FORMAT": "json"}, stdout=out, stderr=out,
        )  # fmt: skip
        memory: list[int] = []
        watcher = threading.Thread(target=watch_memory, args=(process, memory))
        watcher.start()
        code = process.wait()
        watcher.join()
    said = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    begun, ended = ([line for line in said if line["event"] == event] for event in ("state recovered", "worker ends"))
    if code or len(ended) != 1 or ended[0]["events"] != events:
        sys.exit(f"the worker failed: {log.read_text()[-2000:]}")
    quarter = len(memory) // 4
    grown = max(memory[-quarter:]) / max(memory[quarter : 2 * quarter]) if quarter else float("nan")
    return events / (moment(ended[0]) - min(moment(line) for line in begun)), grown


def start_over(settings: Settings) -> None:
    """All topics but the events', and the groups, made anew."""
    admin = AdminClient(librdkafka(settings))
    derived = [settings.topic(t.name) for t in TOPOLOGY.topics if t.name != "market.events"]
    for future in admin.delete_topics(derived).values():
        future.result(30)
    group = settings.prefix + "convert"
    if group in {listing.group_id for listing in admin.list_consumer_groups().result(30).valid}:
        admin.delete_consumer_groups([group])[group].result(30)
    deadline_s = time.monotonic() + 30
    while set(derived) & set(admin.list_topics(timeout=10).topics) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    topics.create(settings, TOPOLOGY)


def watch_memory(process: subprocess.Popen[bytes], memory: list[int]) -> None:
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            memory.append(watched.memory_info().rss)
        except psutil.Error:
            return
        time.sleep(0.25)


def moment(line: dict[str, Any]) -> float:
    return datetime.datetime.fromisoformat(line["timestamp"]).timestamp()


def baseline(script: str, settings: Settings, seconds: float, run: int) -> float:
    """Events a second that a baseline tells of its steady part."""
    topic = settings.topic("market.events")
    state = settings.data_dir / "baseline"
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True)
    uses_own = script == "quix_bars.py"  # its client's version is not ours
    start = ["uv", "run", "--quiet", "--script"] if uses_own else [sys.executable]
    done = subprocess.run(
        [*start, str(BASELINES / script), str(settings.brokers), topic, f"{script}-{run}", str(seconds),
         str(EVENT_SCHEMA)],
        capture_output=True, text=True, check=False, cwd=state, timeout=seconds + BASELINE_EXTRA_S,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("events_per_s ")]
    if not lines:
        sys.exit(f"{script} failed:\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}")
    return float(lines[0].split()[1])


if __name__ == "__main__":
    main(__doc__, measure)
