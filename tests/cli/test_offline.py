"""`bars` and `metrics` over files: what is printed, what is told, and what is written."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from sep_stream.cli import cli
from sep_stream.errors import InputError
from sep_stream.metrics import WindowParams, compute_metrics

T0 = 1_707_091_200  # 2024-02-05T00:00:00Z


def run(*args: object, fails: bool = False) -> Result:
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    if not fails:
        assert result.exit_code == 0, result.output + repr(result.exception)
    return result


def rows(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def points(count: int, seed: int = 1) -> list[int]:
    return (110_000 + np.cumsum(np.random.default_rng(seed).integers(-3, 4, count))).tolist()


def candles(path: Path, closes: list[int], *extra: str) -> Path:
    lines = [f"{T0 + 60 * k},{','.join([f'{p / 1e5:.5f}'] * 4)},2" for k, p in enumerate(closes)]
    path.write_text("\n".join(["time,open,high,low,close,volume", *lines, *extra]) + "\n")
    return path


def test_bars_come_in_the_order_of_their_closing_and_open_ones_never(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    quotes = [(0, "1.10000", "1.10004"), (59, "1.10010", "1.10012"), (60, "1.10020", "1.10025"), (310, "1.1", "1.2")]
    path.write_text("time,bid,ask\n" + "".join(f"{T0 + s},{bid},{ask}\n" for s, bid, ask in quotes))
    bar = {"instrument": "EUR/USD", "open_time": "2024-02-05T00:00:00Z"}
    first = {"open": "1.10002", "high": "1.10011", "low": "1.10002", "close": "1.10011"}
    assert rows(run("bars", path, "--instrument", "EURUSD")) == [
        bar | {"timeframe": "M1"} | first | {"volume": "2", "close_spread": "0.00002"},
        bar
        | {"timeframe": "M1", "open_time": "2024-02-05T00:01:00Z", "open": "1.10023", "high": "1.10023"}
        | {"low": "1.10023", "close": "1.10023", "volume": "1", "close_spread": "0.00005"},
        bar | {"timeframe": "M5"} | first | {"high": "1.10023", "close": "1.10023"}
        | {"volume": "3", "close_spread": "0.00005"},
    ]  # fmt: skip
    m5 = rows(run("bars", path, "--instrument", "EUR/USD", "--timeframe", "M5"))
    assert [row["timeframe"] for row in m5] == ["M5"]


def test_metrics_are_those_of_the_engine_with_outcomes_where_known(tmp_path: Path) -> None:
    closes = points(200)
    path = candles(tmp_path / "c.csv", closes)
    found = rows(run("metrics", path, "--instrument", "EUR/USD", "--timeframe", "M1"))
    bits = np.zeros(200, np.uint8)
    for k in range(1, 200):
        move = closes[k] - closes[k - 1]
        bits[k] = 1 if move > 0 else 0 if move < 0 else bits[k - 1]
    anchors = np.arange(63, 136)
    m = compute_metrics(bits, np.array(closes, np.int32), anchors, WindowParams(), "reference")
    assert [row["anchor_time"] for row in found] == [iso(T0 + 60 * a) for a in anchors.tolist()]
    assert [row["available_at"] for row in found] == [iso(T0 + 60 * (a + 65)) for a in anchors.tolist()]
    for k, row in enumerate(found):
        assert row["initial"] == m.initial[k].tolist()
        assert row["damped"] == m.damped[k].tolist()
        assert (row["lambda"], row["potential"]) == (m.lam[k], m.potential[k])
        assert np.array_equal(np.array(row["path"], np.float32), m.path[k])
        assert row["counts"] == m.counts[k].tolist()
        assert (row["settled_at"], row["converged"]) == (m.settled_at[k], m.converged[k])
        assert row["rupture_collapse"] == m.rupture_collapse[k]
        qbsa = {"probes": m.probes[k], "corrections": m.corrections[k], "ratio": m.ratio[k]}
        assert row["qbsa"] == qbsa | {"collapse": m.qbsa_collapse[k]}
        last, end = anchors[k] + 64, anchors[k] + 94
        assert row["outcome"] == (closes[end] - closes[last] if end < 200 else None)
        assert row["outcome_at"] == (iso(T0 + 60 * int(end + 1)) if end < 200 else None)
    assert set(found[0]) == {
        "instrument", "timeframe", "anchor_time", "available_at", "counts", "initial", "lambda", "damped", "settled_at",
        "converged", "path", "potential", "rupture_collapse", "qbsa", "outcome", "outcome_at",
    }  # fmt: skip


def test_two_longer_bars_around_a_silence_both_complete_a_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"history": 12, "forward": 8, "samples": 4}.items():
        monkeypatch.setenv(f"SEP_{name.upper()}", str(value))
    minutes = [*range(0, 95, 5), 98, 104, 111]  # a candle in each five minutes, then 12:03 and 12:09 alike
    path = tmp_path / "c.csv"
    path.write_text("time,open,high,low,close\n" + "".join(f"{T0 + 60 * m},1.1,1.1,1.1,1.1\n" for m in minutes))
    found = rows(run("metrics", path, "--instrument", "EUR/USD", "--timeframe", "M5"))
    assert [row["available_at"] for row in found] == [iso(T0 + 60 * 100), iso(T0 + 60 * 105)]


def test_engines_print_the_same(tmp_path: Path) -> None:
    path = candles(tmp_path / "c.csv", points(180))
    one, other = (run("metrics", path, "--instrument", "EUR/USD", "--engine", e) for e in ("cpu", "reference"))
    assert one.stdout == other.stdout != ""


def test_parquet_holds_what_ndjson_prints(tmp_path: Path) -> None:
    path = candles(tmp_path / "c.csv", points(700))
    for command in ("bars", "metrics"):
        printed = rows(run(command, path, "--instrument", "EUR/USD"))
        run(command, path, "--instrument", "EUR/USD", "--out", tmp_path / "x.parquet")
        run(command, path, "--instrument", "EUR/USD", "--out", tmp_path / "x.ndjson")
        assert [json.loads(line) for line in (tmp_path / "x.ndjson").read_text().splitlines()] == printed
        stored = pq.read_table(tmp_path / "x.parquet").to_pylist()
        assert len(stored) == len(printed)
        for have, want in zip(stored, printed, strict=True):
            for name, value in want.items():
                if isinstance(have[name], datetime):
                    assert have[name].isoformat().replace("+00:00", "Z") == value
                elif name in ("open", "close", "volume"):
                    assert float(have[name]) == float(value)
                elif name in ("initial", "path", "lambda", "qbsa", "counts", "outcome"):
                    assert have[name] == value


def test_rows_that_cannot_be_used_are_told_with_file_and_line(tmp_path: Path) -> None:
    path = candles(
        tmp_path / "c.csv", [110_000, 110_001],
        f"{T0 + 60},1,1,1,1,1",  # its minute has closed
        f"{T0 + 120},1,0.9,1,1,1",  # high below low
        f"{T0 + 180},1,1,1,1,1",
        f"{T0 + 30 * 86_400},1,1,1,1,1",  # nothing follows
    )  # fmt: skip
    result = run("bars", path, "--instrument", "EUR/USD", "--timeframe", "M1")
    assert [row["open_time"] for row in rows(result)] == [iso(T0), iso(T0 + 60), iso(T0 + 180)]
    assert f"{path}: line 4: not used (late): its minute has closed" in result.stderr
    assert f"{path}: line 5: not used (bad_candle): high is below low" in result.stderr
    assert "1 rows were not used: late" in result.stderr
    assert f"{path}: its last row was not used: it is far ahead" in result.stderr


def test_a_file_of_one_row_gives_no_bar_and_tells_why(tmp_path: Path) -> None:
    path = candles(tmp_path / "c.csv", [110_000])
    result = run("bars", path, "--instrument", "EUR/USD")
    assert rows(result) == []
    assert f"{path}: its last row was not used: no other confirms its time" in result.stderr


def test_a_jump_held_from_one_file_is_told_in_that_file(tmp_path: Path) -> None:
    first = candles(tmp_path / "a.csv", [110_000], f"{T0 + 30 * 86_400},1,1,1,1,1")
    second = tmp_path / "b.csv"
    second.write_text(f"time,open,high,low,close\n{T0 + 30 * 86_400 + 60},1,1,1,1\n")
    result = run("bars", first, second, "--instrument", "EUR/USD", "--timeframe", "M1")
    assert len(rows(result)) == 3
    assert "not used" not in result.stderr


def test_many_bad_rows_are_named_up_to_a_limit_and_counted(tmp_path: Path) -> None:
    path = candles(tmp_path / "c.csv", [110_000], *[f"{T0 + 120},0,0,0,0,1"] * 50)
    stderr = run("bars", path, "--instrument", "EUR/USD").stderr
    assert stderr.count("not used (not_positive)") == 20
    assert "50 rows were not used: not_positive" in stderr


def test_a_failed_run_leaves_no_file_and_an_old_one_as_it_was(tmp_path: Path) -> None:
    path = candles(tmp_path / "c.csv", points(100), f"{T0 + 10**6},1,x,1,1,1")
    out = tmp_path / "out.ndjson"
    out.write_text("old")
    result = run("bars", path, "--instrument", "EUR/USD", "--out", out, fails=True)
    assert isinstance(result.exception, InputError)
    assert f"{path}: line 102: field 'high': expected a decimal number, got 'x'" in str(result.exception)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.csv", "out.ndjson"]
    assert out.read_text() == "old"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["bars", "none.csv", "--instrument", "EUR/USD"], "none.csv"),
        (["bars"], "FILES"),
        (["bars", "c.csv"], "--instrument"),
        (["metrics", "c.csv", "--instrument", "EUR/USD", "--out", "x.csv"], ".ndjson or .parquet"),
        (["metrics", "c.csv", "--instrument", "EUR/USD", "--out", "no/x.parquet"], "there is no folder"),
        (["metrics", "c.csv", "--instrument", "EUR/USD", "--engine", "abacus"], "abacus"),
        (["bars", "c.csv", "--instrument", "EUR/USD", "--timeframe", "H1"], "H1"),
        (["bars", "c.csv", "--instrument", "EUR/USD", "--format", "xml"], "xml"),
    ],
)
def test_wrong_flags_are_usage_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    candles(tmp_path / "c.csv", [1, 2])
    result = run(*args, fails=True)
    assert result.exit_code == 2
    assert told in result.output


def test_the_real_candles_give_the_golden_windows(shared_data: Path) -> None:
    golden = json.loads((shared_data / "golden_windows.json").read_text())
    found = rows(run("metrics", shared_data / golden["source"], "--instrument", "EUR/USD", "--timeframe", "M1"))
    assert len(found) == 2880 - 127
    for window in (w for w in golden["windows"] if w["deadband"] == 0):
        row = found[window["anchor_index"] - 63]
        assert row["anchor_time"] == window["anchor_time"].replace(".000000000", "")
        assert [row[name] for name in ("counts", "settled_at", "converged")] == [
            window[name] for name in ("counts", "settled_at", "converged")
        ]
        for name in ("initial", "damped"):
            assert [value.hex() for value in row[name]] == window[name]
        assert (row["lambda"].hex(), row["potential"].hex()) == (window["lam"], window["potential"])
        assert (row["qbsa"]["corrections"], row["qbsa"]["probes"]) == (window["corrections"], window["probes"])
