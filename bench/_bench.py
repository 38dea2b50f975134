"""What the benchmarks share: the broker, topics full of quotes, figures and how they are told."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final
from unittest.mock import patch

from sep_stream import threads
from sep_stream.market.avro import load_schemas
from sep_stream.market.events import EventBatch
from sep_stream.runtime import garbage_collector, topics
from sep_stream.runtime.cpu_info import cpu_name
from sep_stream.runtime.embedded import EmbeddedKafka
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.resources import resource
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import Topology
from sep_stream.sources.publisher import Publisher
from sep_stream.sources.synthetic import synthetic_quotes

SEED: Final = 7
SYMBOLS: Final = ("EUR/USD", "GBP/USD", "USD/JPY", "AUD/USD", "USD/CAD", "NZD/USD", "USD/CHF", "EUR/JPY")
PER_MINUTE: Final = 20
EVENTS_A_DAY: Final = 1440 * PER_MINUTE * len(SYMBOLS)
"""Before the minutes that the synthetic market leaves out."""
SCALING_MIN: Final = 0.85
"""Near-linear: what each thread adds, of what one alone does."""
TOPOLOGY: Final = Topology.load()
SCHEMAS: Final = load_schemas(resource("schemas") / "avro")
BASELINES: Final = Path(__file__).resolve().parent / "baselines"
EVENT_SCHEMA: Final = resource("schemas") / "avro" / "market_event.avsc"
"""What a baseline decodes with."""
PACKAGES: Final = ("numpy", "numba", "faust-streaming", "aiokafka", "confluent-kafka", "fastavro")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement: ours beside a named baseline of the same run, medians both. target: of the ratio or of
    `ours`, as the text says · None: there is no baseline."""

    what: str
    unit: str
    ours: float
    against: str | None = None
    baseline: float | None = None
    ratio: float | None = None
    target: str = ""

    @classmethod
    def rates(cls, what: str, unit: str, ours: list[float], against: str, baseline: list[float], target: str) -> Figure:
        """Of rates: more is better."""
        mine, theirs = statistics.median(ours), statistics.median(baseline)
        return cls(what, unit, mine, against, theirs, mine / theirs, target)

    @classmethod
    def times(cls, what: str, unit: str, ours: list[float], against: str, baseline: list[float], target: str) -> Figure:
        """Of durations: less is better."""
        mine, theirs = statistics.median(ours), statistics.median(baseline)
        return cls(what, unit, mine, against, theirs, theirs / mine, target)

    def told(self) -> str:
        beside = "" if self.baseline is None else f"; {self.against}: {number(self.baseline)}, ratio {self.ratio:.2f}"
        return f"{self.what}: {number(self.ours)} {self.unit}{beside}" + (
            f" (target {self.target})" if self.target else ""
        )


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def note(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--runs", type=int, default=3, help="medians are of so many (default 3)")
    made.add_argument("--seconds", type=float, default=60.0, help="of steady work in each figure (default 60)")
    made.add_argument("--json", action="store_true", help="print each figure as a line of JSON")
    return made


def main(description: str | None, measure: Callable[[argparse.Namespace], Iterator[Figure]]) -> None:
    """Print where and with what this runs, then each figure as it is known."""
    arguments = parser(description).parse_args()
    garbage_collector.settle()  # as the commands do
    if not arguments.json:
        print(header())
        print(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]), flush=True)
    for figure in measure(arguments):
        print(json.dumps(asdict(figure)) if arguments.json else figure.told(), flush=True)


def header() -> str:
    """Hardware, versions and date, one line each."""
    return "\n".join(
        [
            f"{cpu_name()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
            f"Python {platform.python_version()}, " + ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
            f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        ]
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


@contextmanager
def computing_on(count: int) -> Iterator[None]:
    """Large batches are computed by so many threads."""
    with patch.object(threads, "given", lambda: count):
        yield


@contextmanager
def broker() -> Iterator[tuple[str, Path]]:
    """An embedded broker of the benchmark's own: its address, and a folder beside its data."""
    with tempfile.TemporaryDirectory(prefix="sep-bench-") as name:
        kafka = EmbeddedKafka(Path(name))
        address = kafka.start(note)
        try:
            yield address, Path(name)
        finally:
            kafka.stop()


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], folder: Path
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The process and its log, `folder/process.log`; killed at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "process.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=folder)
    try:
        yield process, log
    finally:
        process.kill()
        process.wait()


def fresh_topics(address: str, folder: Path, prefix: str) -> Settings:
    settings = Settings.load(brokers=address, prefix=prefix, data_dir=folder / prefix)
    topics.create(settings, TOPOLOGY)
    return settings


def quotes(events: int) -> Iterator[EventBatch]:
    """Days of quotes of all SYMBOLS, interleaved by time: as many whole days as hold `events`."""
    days = -(-events // int(EVENTS_A_DAY * 0.97))
    return synthetic_quotes(TOPOLOGY.instruments, SYMBOLS, days, SEED, per_minute=PER_MINUTE)


def publish(settings: Settings, batches: Iterator[EventBatch]) -> int:
    """Publish and say how many."""
    topic = settings.topic("market.events")
    with Publisher(librdkafka(settings), SCHEMAS, TOPOLOGY.instruments, topic, settings.partitions) as publisher:
        for batch in batches:
            publisher.publish(batch)
        publisher.flush()
        return publisher.acknowledged
