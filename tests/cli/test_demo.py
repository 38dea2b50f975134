"""`demo`: the whole story, on the market that it makes up and on files."""

from __future__ import annotations

import os
import random
import re
import signal
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from sep_stream.demo.story import _explain_no_model, _worker
from sep_stream.errors import DependencyError
from sep_stream.runtime.settings import Settings
from sep_stream.scoring.model import ModelParameters
from sep_stream.worker.runner import STAGES
from tests.waiting import until

from .commands import NOWHERE, finish, run, start

pytestmark = pytest.mark.integration

START = datetime(2024, 2, 5, tzinfo=UTC)


def quotes(file: Path, count: int) -> Path:
    """Quotes ten seconds apart."""
    draw = random.Random(1)
    lines = ["time,bid,ask"]
    for k in range(count):
        bid = 1.1 + draw.randrange(100) / 1e5
        lines.append(f"{(START + timedelta(seconds=10 * k)).isoformat()},{bid:.5f},{bid + 0.0001:.5f}")
    file.write_text("\n".join(lines) + "\n")
    return file


def candles(file: Path, count: int) -> Path:
    draw = random.Random(2)
    lines = ["time,open,high,low,close"]
    for k in range(count):
        low = 1.1 + draw.randrange(200) / 1e5
        high = low + draw.randrange(1, 30) / 1e5
        first, last = draw.choice([(low, high), (high, low)])
        time = (START + timedelta(minutes=k)).isoformat()
        lines.append(f"{time},{first:.5f},{high:.5f},{low:.5f},{last:.5f}")
    file.write_text("\n".join(lines) + "\n")
    return file


def figures(output: str) -> dict[str, str]:
    """The rows of the summary."""
    return dict(re.findall(r"│ ([^│]+?) +│ +([^│]+?) │", output))


def assert_the_full_story_of_a_made_up_market(out: str) -> None:
    """Check what the demo says of seed 3 and 8 days."""
    shown = figures(out)
    assert "SYNTHETIC market, seed 3: 8 trading days" in out
    assert "Signals of a SYNTHETIC market" in out
    assert "Summary (synthetic data)" in out
    assert shown["windows"] == shown["metrics"] != "0"
    outcomes = [int(n.replace(",", "")) for name, n in shown.items() if re.fullmatch(r"signals M\d+, gate \w+", name)]
    assert sum(outcomes) == int(shown["signals"].replace(",", "")) > 0
    assert shown["late"] == shown["dead.letters"] == "0"
    assert re.fullmatch(r"p50 \d+ ms, p99 \d+ ms", shown["event to signal, paced part"])


def test_the_made_up_market_tells_the_full_story(tmp_path: Path) -> None:
    """The demo runs without stores and TLS here, and with both in `test_stores`."""
    code, out, err = finish(start("demo", "--days", 8, "--seed", 3, cwd=tmp_path))
    assert code == 0, err
    assert_the_full_story_of_a_made_up_market(out)
    assert "Try next:" in out
    assert all(len(line) <= 80 for line in out.splitlines() if "log /" not in line)
    _, status, _ = run("status", "--data-dir", tmp_path / "data" / "demo", cwd=tmp_path)
    assert "no embedded Kafka runs" in status


@pytest.mark.slow
def test_two_days_of_candles_give_m1_signals_and_say_why_the_others_hold(tmp_path: Path) -> None:
    file = candles(tmp_path / "candles.csv", 2_400)
    code, out, err = finish(start("demo", file, "--instrument", "EUR/USD", cwd=tmp_path))
    assert code == 0, err
    assert "Try next:" in out
    assert "candles.csv as EUR/USD" in out
    assert "SYNTHETIC" not in out
    assert re.search(r"EUR/USD M5 will hold: its history makes \d+ blocks of 64", out)
    assert re.search(r"EUR/USD M15 will hold", out)
    shown = figures(out)
    assert int(shown["signals M1, gate failed"].replace(",", "")) > 0
    assert shown["HOLD M5, reason library"] == shown["signals M5, gate failed"]


def test_what_a_model_needs_is_said_where_the_history_holds_too_little() -> None:
    console = Console(file=StringIO(), width=200)
    _explain_no_model(ModelParameters(), {("EUR/USD", "M1"): 119, ("EUR/USD", "M5"): 23}, console)
    said = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "no model: the history holds 119 M1 bars; the first window with a known outcome takes 158" in said
    assert "a direction 1,118" in said


@pytest.mark.slow
def test_too_few_quotes_for_a_model_say_how_many_bars_one_needs_and_the_stack_is_kept(tmp_path: Path) -> None:
    file = quotes(tmp_path / "quotes.csv", 900)
    code, out, err = run("demo", file, "--instrument", "EUR/USD", "--keep", cwd=tmp_path)
    demo = tmp_path / "data" / "demo"
    try:
        assert code == 0, err
        assert "no model: the history holds 119 M1 bars" in out
        assert "a direction 1,118" in " ".join(out.split())
        assert figures(out)["bars"] == "187"
        assert figures(out)["signals"] == "0"
        assert run("status", "--data-dir", demo, "--prefix", "demo.", cwd=tmp_path)[0] == 0
        code, bars, _ = run("tail", "bars", "--prefix", "demo.", "--count", 3, "--from", "beginning",
                            "--data-dir", demo, cwd=tmp_path)  # fmt: skip
        assert code == 0
        assert len(bars.splitlines()) == 3
    finally:
        assert run("down", "--data-dir", demo, cwd=tmp_path)[0] == 0


def test_a_worker_that_ended_is_told_with_its_exit_code_and_log(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    with _worker(Settings.load(brokers=NOWHERE), STAGES, log, Console(file=StringIO())) as check:
        with pytest.raises(DependencyError) as error:
            until(check)
        assert str(error.value) == f"the worker ended with exit code 1; see {log}"
    assert NOWHERE in log.read_text()


@pytest.mark.slow
def test_a_worker_that_is_killed_is_told_at_once(tmp_path: Path) -> None:
    process = start("demo", "--days", 8, cwd=tmp_path)
    assert process.stdout is not None
    pid = next(match[1] for line in process.stdout if (match := re.search(r"a worker runs, pid (\d+)", line)))
    os.kill(int(pid), signal.SIGKILL)
    code, _, err = finish(process)
    assert code == 1
    assert err == f"sep-stream: the worker ended with exit code -9; see {tmp_path}/data/demo/worker.log\n"


def test_files_need_an_instrument(tmp_path: Path) -> None:
    code, _, err = run("demo", quotes(tmp_path / "quotes.csv", 2), cwd=tmp_path)
    assert code == 2
    assert "--instrument" in err


def test_a_file_that_begins_before_the_last_one_ends_is_refused_before_anything_starts(tmp_path: Path) -> None:
    first, second = candles(tmp_path / "one.csv", 20), candles(tmp_path / "two.csv", 10)
    code, out, err = run("demo", first, second, "--instrument", "EUR/USD", cwd=tmp_path)
    assert code == 1
    assert out == ""
    assert "two.csv: begins before the file given before it ends" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "symbol", "said"),
    [
        ("gbpusd_m1_bid_2012-02.csv", "GBP/USD", "signals confirmed"),
        ("eurusd_m1_2025-07-23.json", "EUR/USD", "EUR/USD M15 will hold"),
        ("eurusd_quotes_2019-01-01.csv", "EUR/USD", "no model: the history holds 123 M1 bars"),
    ],
)
def test_real_data(shared_data: Path, tmp_path: Path, name: str, symbol: str, said: str) -> None:
    code, out, err = run("demo", shared_data / name, "--instrument", symbol, "--assume-utc", cwd=tmp_path)
    assert code == 0, err
    assert said in out
    assert figures(out)["dead.letters"] == "0"


@pytest.mark.slow
def test_the_story_is_the_same_on_a_secured_broker(tmp_path: Path) -> None:
    """Each part logs in as the role that it plays, whatever the environment says of another broker."""
    (tmp_path / "x").mkdir()
    plain, secured = (
        run("demo", "--days", 8, "--seed", 3, *flags, cwd=tmp_path / "x", **environment)
        for flags, environment in (((), {}), (("--secure", "--keep"), {"SEP_SASL_MECHANISM": "PLAIN"}))
    )
    assert secured[0] == plain[0] == 0, secured[2]
    assert "· secured: TLS" in secured[1]
    counted = ("market.events", "bars", "windows", "metrics", "signals", "late", "dead.letters", "signals confirmed")
    assert {name: figures(secured[1])[name] for name in counted} == {name: figures(plain[1])[name] for name in counted}
    folder = tmp_path / "x" / "data" / "demo"
    code, out, err = run(
        "tail", "signals", "--data-dir", folder, "--prefix", "demo.", "--from", 0, "--count", 2, cwd=tmp_path
    )
    assert (code, len(out.splitlines()), err) == (0, 2, "")
    assert run("down", "--data-dir", folder, "--wipe", "--yes", cwd=tmp_path)[0] == 0
    assert not (folder / "security").exists()
