"""`backtest`: what it writes, what it says, and what it refuses."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from sep_stream.cli import cli
from sep_stream.errors import SepError
from sep_stream.runtime import log_reader
from tests.cli.commands import NOWHERE, finish, start
from tests.cli.test_offline import candles, points

FILES = ["report.html", "signals.parquet", "summary.json", "trades.parquet"]
QUICK = {"SEP_HISTORY": "12", "SEP_FORWARD": "8", "SEP_SAMPLES": "4"}
ASKED = ("--instrument", "EUR/USD", "--folds", "2", "--trade", "all", "--min-blocks", "2", "--matches", "4")


@pytest.fixture
def market(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return candles(tmp_path / "market.csv", points(3000))


def backtest(*args: object, cwd: Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command in this process, as `main` gives them."""
    environment = {**QUICK, "SEP_DATA_DIR": str(cwd / "data")}
    result = CliRunner().invoke(cli, ["backtest", *map(str, args)], env=environment)
    if isinstance(result.exception, SepError):
        return 1, result.stdout, f"{result.stderr}sep-stream: {result.exception}"
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, result.stdout, result.stderr


def left(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_backtest_of_a_file_leaves_its_four_files_and_a_sentence(market: Path, tmp_path: Path) -> None:
    code, out, err = backtest(market, *ASKED, cwd=tmp_path)
    assert code == 0, err
    assert out.splitlines()[-1] == "  backtest/report.html"
    assert left(tmp_path / "backtest") == FILES
    summary = json.loads((tmp_path / "backtest/summary.json").read_text())
    assert summary["verdict"]["sentence"] == out.splitlines()[0]
    signals, trades = (pq.read_table(tmp_path / f"backtest/{name}.parquet") for name in ("signals", "trades"))
    assert summary["counts"]["signals"] == len(signals) > 100
    assert summary["headline"]["trades"] == len(trades) > 10
    assert set(trades["signal_id"].to_pylist()) <= set(signals["signal_id"].to_pylist())
    assert {fold["number"] for fold in summary["by_fold"]} == {1, 2} == set(signals["fold"].to_pylist())


def test_the_same_run_writes_the_same_bytes(market: Path, tmp_path: Path) -> None:
    for out in ("one", "two"):
        assert backtest(market, *ASKED, "--out", out, "--threads", 1 if out == "one" else 3, cwd=tmp_path)[0] == 0
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in FILES)


def test_flags_win_over_the_parameter_file_and_both_over_defaults(market: Path, tmp_path: Path) -> None:
    given = tmp_path / "given.toml"
    given.write_text('folds = 3\ntrade = "all"\nmin_blocks = 2\nunits = 12.5\ncalibrate = false\n')
    code, out, err = backtest(
        market, "--instrument", "EUR/USD", "--params", given, "--folds", 2, "--json", cwd=tmp_path
    )
    assert code == 0, err
    summary: dict[str, Any] = json.loads(out)
    assert summary["parameters"]["folds"]["fold_count"] == 2
    assert (summary["parameters"]["units"], summary["parameters"]["calibrate"]) == ("12.5", False)
    assert summary["parameters"]["min_blocks"] == 2


def test_a_grid_tries_each_combination_and_every_report_says_how_many(market: Path, tmp_path: Path) -> None:
    code, out, err = backtest(
        market,
        *ASKED,
        "--grid",
        "slippage=0,3",
        "--grid",
        "confidence-min=0.5,0.6",
        "--grid",
        "calibrate=no",
        cwd=tmp_path,
    )
    assert code == 0, err
    assert left(tmp_path / "backtest") == ["001", "002", "003", "004", "grid.json"]
    grid = json.loads((tmp_path / "backtest/grid.json").read_text())
    assert [each["tried"] for each in grid][1] == {"slippage": "0", "confidence_min": "0.6", "calibrate": "False"}
    assert {each["summary"]["trials"] for each in grid} == {4}
    assert "4 " in (tmp_path / "backtest/001/report.html").read_text()
    assert len(out.splitlines()) == 8


def test_a_models_of_the_folds_can_be_kept_and_used_alone(market: Path, tmp_path: Path) -> None:
    code, out, err = backtest(market, *ASKED, "--save-models", "--json", cwd=tmp_path)
    assert code == 0, err
    ids = [fold["model_id"] for fold in json.loads(out)["by_fold"]]
    assert sorted(os.listdir(tmp_path / "data/models")) == sorted(ids)
    code, out, err = backtest(market, "--instrument", "EUR/USD", "--model", ids[0][:12], "--trade", "all", "--json",
                              cwd=tmp_path)  # fmt: skip
    assert code == 0, err
    [fold] = json.loads(out)["by_fold"]
    assert fold["model_id"] == ids[0]


def test_the_look_ahead_guard_passes(market: Path, tmp_path: Path) -> None:
    code, out, err = backtest(market, *ASKED, "--check-lookahead", "--cuts", 2, cwd=tmp_path)
    assert code == 0, err
    assert out.startswith("no look-ahead: no signal of ")
    assert not (tmp_path / "backtest").exists()


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (("none.csv", "--instrument", "EUR/USD"), 1, "none.csv"),
        (("market.csv",), 2, "--instrument names whose prices"),
        (("market.csv", "--instrument", "EUR/XXX"), 1, "unknown instrument 'EUR/XXX'"),
        (("market.csv", "--instrument", "EUR/USD", "--folds", "2", "--fold-days", "1"), 2, "one of them"),
        (("market.csv", "--instrument", "EUR/USD", "--from", "2030-01-01T00:00:00Z"), 1, "the range closes no bar"),
        (("market.csv", "--instrument", "EUR/USD", "--from", "2030-01-01"), 2, "no zone"),
        (("market.csv", "--instrument", "EUR/USD", "--train-days", "90"), 1, "too short"),
        (("market.csv", "--instrument", "EUR/USD", "--embargo-minutes", "5"), 1, "embargo"),
        (("market.csv", "--instrument", "EUR/USD", "--grid", "speed=1"), 2, "expected NAME=V1,V2"),
        (("market.csv", "--instrument", "EUR/USD", "--grid", "matches=x"), 2, "'x' is not a valid integer"),
        (("market.csv", "--instrument", "EUR/USD", "--model", "ffff"), 1, "model 'ffff'"),
        (("market.csv", "--instrument", "EUR/USD", "--params", "bad.toml"), 2, "speed: expected some of mode"),
        (("topic", "--brokers", NOWHERE), 1, NOWHERE),
        (("--verify-against", "sep.", "market.csv"), 2, "--verify-against reads the events of its prefix"),
    ],
)
def test_what_can_not_be_is_refused_in_words(
    market: Path, tmp_path: Path, args: tuple[str, ...], code: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reader, "REQUEST_TIMEOUT_S", 1.0)  # for the broker that is nowhere
    (tmp_path / "bad.toml").write_text("speed = 3\n")
    found, out, err = backtest(*args, cwd=tmp_path)
    assert (found, out) == (code, ""), err
    assert told in " ".join(err.replace("│", " ").split())
    assert not (tmp_path / "backtest").exists()


def test_a_disk_that_fills_leaves_what_was_there(market: Path, tmp_path: Path) -> None:
    assert backtest(market, *ASKED, cwd=tmp_path)[0] == 0
    before = {name: (tmp_path / "backtest" / name).read_bytes() for name in FILES}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_192, limits[1]))
    try:
        command = start("backtest", market, *ASKED, "--slippage", 2, cwd=tmp_path, **QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    code, _, err = finish(command)
    assert code == 1
    assert "File too large" in err
    assert left(tmp_path / "backtest") == FILES
    assert {name: (tmp_path / "backtest" / name).read_bytes() for name in FILES} == before
