"""The convert stage beside a stock Faust agent that only decodes: `python bench/worker.py`.

Both read the same kind of topic on the same broker with the same cores, one after the other, three times; each
topic holds quotes of eight instruments. Our figure is the whole work of `sep-stream worker --stages convert`
(decode, rules, bars, windows, sends, commits, snapshots), from the first fetch to the end of the process; the
agent's is `fastavro.schemaless_reader` per event and nothing else, from its first event to its last.
"""

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
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sep_stream.market.avro import load_schemas
from sep_stream.market.events import EventBatch
from sep_stream.runtime import topics
from sep_stream.runtime.embedded import EmbeddedKafka
from sep_stream.runtime.kafka_config import librdkafka
from sep_stream.runtime.resources import resource
from sep_stream.runtime.settings import Settings
from sep_stream.runtime.topology import Topology
from sep_stream.sources.publisher import Publisher
from sep_stream.sources.synthetic import synthetic_quotes

RUNS = 3
SEED = 7
PER_MINUTE = 20
SYMBOLS = ("EUR/USD", "GBP/USD", "USD/JPY", "AUD/USD", "USD/CAD", "NZD/USD", "USD/CHF", "EUR/JPY")
EVENTS_A_DAY = 1440 * PER_MINUTE * len(SYMBOLS)

TOPOLOGY = Topology.load()
SCHEMAS = load_schemas(resource("schemas") / "avro")


def filled(broker: str, folder: Path, prefix: str, days: list[EventBatch]) -> Settings:
    """Topics of their own with the quotes in them."""
    settings = Settings.load(brokers=broker, prefix=prefix, data_dir=folder)
    topics.create(settings, TOPOLOGY)
    topic = settings.topic("market.events")
    with Publisher(librdkafka(settings), SCHEMAS, TOPOLOGY.instruments, topic, settings.partitions) as publisher:
        for day in days:
            publisher.publish(day)
    return settings


def worker_events_per_s(settings: Settings, events: int) -> float:
    log = settings.data_dir / f"{settings.prefix}log"
    with log.open("wb") as out:
        subprocess.run(
            [sys.executable, "-m", "sep_stream", "worker", "--stages", "convert", "--until-caught-up"],
            env={**os.environ, **settings.environment(), "SEP_LOG_FORMAT": "json"},
            stderr=out, stdout=out, check=True,
        )  # fmt: skip
    said = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    begun, [ended] = ([line for line in said if line["event"] == event] for event in ("state recovered", "worker ends"))
    assert ended["events"] == events, ended
    return events / (moment(ended) - min(moment(line) for line in begun))


def moment(line: dict[str, Any]) -> float:
    return datetime.datetime.fromisoformat(line["timestamp"]).timestamp()


def faust_events_per_s(settings: Settings, events: int) -> float:
    done = subprocess.run(
        [sys.executable, __file__, "--as-faust-agent", settings.topic("market.events"), str(events)],
        env={**os.environ, **settings.environment()}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("seconds ")]
    if not lines:
        sys.exit(f"the Faust agent failed:\n{done.stderr[-2000:]}")
    return events / float(lines[0].split()[1])


def be_a_faust_agent(topic: str, events: int) -> None:
    """A stock app, its buffers made large enough that it never waits for them."""
    import fastavro
    import faust

    settings = Settings.load()
    schema = SCHEMAS["market_event"].parsed
    app = faust.App(
        f"bench-{topic}",
        broker=f"kafka://{settings.brokers}",
        store="memory://",
        autodiscover=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=8 * 1024 * 1024,
        broker_max_poll_records=10_000,
        stream_buffer_maxsize=65_536,
        stream_wait_empty=False,
    )

    @app.agent(app.topic(topic, value_serializer="raw", key_serializer="raw"))
    async def decode(stream: Any) -> None:
        import io

        seen, begun_s = 0, 0.0
        async for value in stream:
            if not seen:
                begun_s = time.perf_counter()
            fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None)
            seen += 1
            if seen == events:
                print("seconds", time.perf_counter() - begun_s, flush=True)
                os._exit(0)

    app.finalize()
    worker = faust.Worker(app, loglevel="ERROR", redirect_stdouts=False)
    worker.execute_from_commandline()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=20, help=f"trading days, of {EVENTS_A_DAY:,} events each")
    parser.add_argument("--as-faust-agent", nargs=2, metavar=("TOPIC", "EVENTS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_faust_agent:
        topic, events = arguments.as_faust_agent
        be_a_faust_agent(topic, int(events))
        return

    days = list(synthetic_quotes(TOPOLOGY.instruments, SYMBOLS, arguments.days, SEED, per_minute=PER_MINUTE))
    packages = ", ".join(f"{name} {version(name)}" for name in ("faust-streaming", "aiokafka", "fastavro", "numba"))
    print(f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}")
    print(f"{packages}; {datetime.datetime.now(datetime.UTC):%Y-%m-%d}; {' '.join(sys.argv)}")
    ours: list[float] = []
    stock: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kafka = EmbeddedKafka(folder)
        broker = kafka.start(lambda message: None)
        try:
            for run in range(RUNS):
                settings = filled(broker, folder, f"run{run}.", days)
                ours.append(worker_events_per_s(settings, sum(len(day) for day in days)))
                stock.append(faust_events_per_s(settings, EVENTS_A_DAY // 2))
                print(f"run {run + 1}: worker {ours[-1]:,.0f} events/s, stock Faust agent {stock[-1]:,.0f} events/s")
        finally:
            kafka.stop()
    worker, agent = statistics.median(ours), statistics.median(stock)
    print(f"median: worker {worker:,.0f} events/s, stock Faust agent {agent:,.0f} events/s, ratio {worker / agent:.1f}")


if __name__ == "__main__":
    main()
