"""Files as events: every format, and errors that name file, place and field."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sep_stream.convert import MarketDataConverter
from sep_stream.errors import InputError
from sep_stream.market.events import NULL, EventBatch, Kind
from sep_stream.runtime.topology import Topology
from sep_stream.sources import csv_table, table
from sep_stream.sources.files import read_events, read_files

INSTRUMENTS = Topology.load().instruments
T0 = 1_707_091_200  # 2024-02-05T00:00:00Z
CANDLES = [
    # minute, open, high, low, close, volume
    (0, "1.10000", "1.10020", "1.09990", "1.10010", "12"),
    (1, "1.10010", "1.10010", "1.10000", "1.10005", "3"),
    (3, "1.10005", "1.10030", "1.10005", "1.10030", "7.5"),
]
QUOTES = [(T0 * 1000 + 78, "1.14605", "1.14643"), (T0 * 1000 + 180, "1.14608", "1.14663")]


def events(path: Path, instrument: str = "EUR/USD", **options: Any) -> EventBatch:
    return EventBatch.concatenate(list(read_events(path, INSTRUMENTS, instrument, **options)))


def write(path: Path, *lines: str, newline: str = "\n") -> Path:
    path.write_bytes(newline.join(lines).encode())
    return path


def iso(minute: int) -> str:
    return datetime.fromtimestamp(T0 + 60 * minute, UTC).isoformat()


def candle_csv(path: Path) -> Path:
    rows = [",".join((iso(m), *fields)) for m, *fields in CANDLES]
    return write(path, "timestamp,open,high,low,close,volume", *rows, "")


def candle_json(path: Path) -> Path:
    names = ("open", "high", "low", "close", "volume")
    rows = [
        f'{{"time": "{iso(m)}", ' + ", ".join(f'"{n}": {v}' for n, v in zip(names, fields, strict=True)) + "}"
        for m, *fields in CANDLES
    ]
    return write(path, f"[{', '.join(rows)}]")


def oanda_json(path: Path, *groups: str, granularity: str = "M1") -> Path:
    """Numbers as OANDA writes them: text; `bid` lies 3 points below, `ask` 4 above."""
    shift = {"mid": Decimal(0), "bid": Decimal("-0.00003"), "ask": Decimal("0.00004")}
    candles = [
        {
            "complete": True,
            "time": str(T0 + 60 * m) + ".000000000",
            "volume": v,
            **{
                group: {n: str(Decimal(p) + shift[group]) for n, p in zip("ohlc", (o, h, low, c), strict=True)}
                for group in groups
            },
        }
        for m, o, h, low, c, v in CANDLES
    ]
    document = {"instrument": "EUR_USD", "granularity": granularity, "candles": candles}
    path.write_text(json.dumps(document))
    return path


def candle_parquet(path: Path, prices: Any, times: Any) -> Path:
    columns = {name: prices([row[k] for row in CANDLES]) for k, name in enumerate(("open", "high", "low", "close"), 1)}
    volume = pa.array([float(row[5]) for row in CANDLES])
    pq.write_table(pa.table({"time": times, **columns, "volume": volume}), path)
    return path


def quote_csv(path: Path) -> Path:
    return write(path, "time,bid,ask,bid_size,ask_size", *(f"{t},{b},{a},1000000,1000000" for t, b, a in QUOTES), "")


def assert_candles(batch: EventBatch, source: str) -> None:
    assert batch.event_time.tolist() == [(T0 + 60 * row[0]) * 1_000_000 for row in CANDLES]
    for k, name in enumerate(("open", "high", "low", "close", "volume"), 1):
        assert getattr(batch, name).tolist() == [int(Decimal(row[k]) * 10**9) for row in CANDLES]
    assert set(batch.kind.tolist()) == {Kind.BAR}
    assert set(batch.duration_s.tolist()) == {60}
    assert set(batch.price.tolist()) == {NULL}
    assert batch.sources == (f"file:{source}",)
    assert not batch.reason.any()
    assert {INSTRUMENTS[i].symbol for i in batch.instrument.tolist()} == {"EUR/USD"}


def test_every_candle_format_gives_the_same_events(tmp_path: Path) -> None:
    utc = pa.array([datetime.fromtimestamp(T0 + 60 * row[0], UTC) for row in CANDLES], pa.timestamp("ns", "UTC"))
    seconds = pa.array([T0 + 60 * row[0] for row in CANDLES])

    def decimals(texts: list[str]) -> Any:
        return pa.array([Decimal(t) for t in texts], pa.decimal128(18, 9))

    def floats(texts: list[str]) -> Any:
        return pa.array([float(t) for t in texts])

    paths = [
        candle_csv(tmp_path / "a.csv"),
        candle_json(tmp_path / "a.json"),
        oanda_json(tmp_path / "b.json", "mid"),
        candle_parquet(tmp_path / "a.parquet", decimals, utc),
        candle_parquet(tmp_path / "b.parquet", floats, seconds),
        candle_parquet(tmp_path / "c.parquet", lambda texts: pa.array([float(t) for t in texts], pa.float32()), utc),
        candle_parquet(tmp_path / "d.parquet", pa.array, pa.array([iso(row[0]) for row in CANDLES])),
    ]
    for path in paths:
        assert_candles(events(path, "EUR_USD"), path.name)


def test_quotes_have_no_volume(tmp_path: Path) -> None:
    parquet = tmp_path / "q.parquet"
    times = pa.array([t for t, *_ in QUOTES], pa.timestamp("ms", "UTC"))
    pq.write_table(pa.table({"time": times, "bid": [1.14605, 1.14608], "ask": [1.14643, 1.14663]}), parquet)
    for path in (quote_csv(tmp_path / "q.csv"), parquet):
        batch = events(path)
        assert batch.event_time.tolist() == [t * 1000 for t, *_ in QUOTES]
        assert batch.bid.tolist() == [1_146_050_000, 1_146_080_000]
        assert batch.ask.tolist() == [1_146_430_000, 1_146_630_000]
        assert set(batch.kind.tolist()) == {Kind.QUOTE}
        assert set(batch.volume.tolist()) == {NULL}
        assert set(batch.duration_s.tolist()) == {NULL}


def test_candles_of_bid_and_ask_are_halved_and_tell_their_spread(tmp_path: Path) -> None:
    both = events(oanda_json(tmp_path / "both.json", "bid", "ask"))
    output = MarketDataConverter(INSTRUMENTS).feed(both)
    m1 = output.bars[output.bars["timeframe"] == 0]
    assert m1["close"].tolist() == [110_011, 110_006, 110_031]  # half a point up
    assert m1["spread"].tolist() == [7, 7, 7]
    with_mid = events(oanda_json(tmp_path / "mid.json", "mid", "bid", "ask"))
    assert with_mid.close.tolist() == [int(Decimal(row[4]) * 10**9) for row in CANDLES]
    assert (with_mid.ask - with_mid.bid).tolist() == [70_000] * 3
    bid = events(oanda_json(tmp_path / "bid.json", "bid"))
    assert bid.close.tolist() == [1_100_070_000, 1_100_020_000, 1_100_270_000]
    assert set(bid.bid.tolist()) == {NULL}


def test_a_candle_that_is_not_complete_is_left_out_and_told(tmp_path: Path) -> None:
    path = oanda_json(tmp_path / "open.json", "mid")
    document = json.loads(path.read_text())
    document["candles"][-1]["complete"] = False
    path.write_text(json.dumps(document))
    notes: list[str] = []
    assert len(events(path, note=notes.append)) == 2
    assert notes == [f"{path}: 1 candles are not complete yet and left out"]


def test_sequence_and_offset_are_the_place_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "q.csv", "time,bid,ask", f"{T0},1,2", "", f"{T0},1,2", "", "")
    assert events(path).offset.tolist() == events(path).sequence.tolist() == [2, 4]
    assert events(candle_json(tmp_path / "c.json")).sequence.tolist() == [1, 2, 3]


def test_line_ends_quotes_and_a_byte_order_mark_do_not_matter(tmp_path: Path) -> None:
    lines = ('\ufeff"Time","Bid","Ask"', f'"{T0}","1.1",1.2', f" {T0} , 1.3,1.4 ")
    expected = [1_100_000_000, 1_300_000_000]
    for newline in ("\n", "\r\n"):
        for end in ((), ("",), ("", "", "")):
            assert events(write(tmp_path / "q.csv", *lines, *end, newline=newline)).bid.tolist() == expected


@pytest.mark.parametrize("chunk", [64, 100, 1000])
def test_chunks_and_tables_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    rows = [f"{T0 + k},1.{k:05d},1.{k + 2:05d}" for k in range(1000)]
    path = write(tmp_path / "q.csv", "time,bid,ask", *rows)
    whole = events(path)
    monkeypatch.setattr(csv_table, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(csv_table, "TABLE_ROWS_MAX", 7)
    batches = list(read_events(path, INSTRUMENTS, "EUR/USD"))
    assert max(map(len, batches)) <= 7
    cut = EventBatch.concatenate(batches)
    for name in ("event_time", "bid", "ask", "sequence", "offset"):
        assert np.array_equal(getattr(cut, name), getattr(whole, name))
    assert table.TABLE_ROWS_MAX == 50_000


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ((f"{T0},1.1,1.2", f"{T0},1.x,1.2"), "line 3: field 'bid': expected a decimal number, got '1.x'"),
        ((f"{T0},1.1,",), "line 2: field 'ask': expected a value, got ''"),
        (("2024-02-05 00:00,1,2",), "line 2: field 'time': expected a time with its zone"),
        (("noon,1,2",), "line 2: field 'time': expected ISO 8601 with a zone"),
        ((f"{T0},1,2", "", f"{T0},1"), "line 4: expected 3 fields as in line 1, got 2"),
        ((f"{T0},1,2,3",), "line 2: expected 3 fields as in line 1, got 4"),
        ((f"{T0},1,2", f"{T0 - 1},1,2"), "line 3: field 'time': 2024-02-04T23:59:59Z is before 2024-02-05T00:00:00Z"),
        ((f"{T0},1234567890,2",), "line 2: field 'bid': expected a number below 10^9, got '1234567890'"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path: Path, lines: tuple[str, ...], told: str) -> None:
    path = write(tmp_path / "bad.csv", "time,bid,ask", *lines)
    with pytest.raises(InputError) as error:
        events(path)
    assert f"{path}: {told}" in str(error.value)


def test_order_is_checked_across_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_table, "TABLE_ROWS_MAX", 2)
    path = write(tmp_path / "q.csv", "time,bid,ask", *(f"{T0 + k},1,2" for k in (0, 1, 0)))
    with pytest.raises(InputError, match="line 4: field 'time'"):
        events(path)


def test_a_naive_time_is_utc_only_where_that_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "q.csv", "time,bid,ask", "2024-02-05 00:00:00,1,2")
    assert events(path, assume_utc=True).event_time.tolist() == [T0 * 1_000_000]
    parquet = tmp_path / "q.parquet"
    times = pa.array([datetime(2024, 2, 5)])  # noqa: DTZ001 - naive on purpose
    pq.write_table(pa.table({"time": times, "bid": [1.0], "ask": [2.0]}), parquet)
    assert events(parquet, assume_utc=True).event_time.tolist() == [T0 * 1_000_000]
    with pytest.raises(InputError, match=r"row 1: field 'time': expected a time with its zone"):
        events(parquet)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[{]", "line 1, column 3: not JSON"),
        ('{"quotes": []}', 'expected a list of candles, or an object with a list "candles"'),
        ("[1]", "candle 1: expected an object, got '1'"),
        (
            '[{"time": 1707091200, "open": 1, "high": 1, "low": 1}]',
            "candle 1: field 'close': expected a value, got nothing",
        ),
        (
            '[{"time": 1707091200, "open": 1, "high": [], "low": 1, "close": 1}]',
            "candle 1: field 'high': expected a value",
        ),
        (
            '[{"time": 1707091200, "open": NaN, "high": 1, "low": 1, "close": 1}]',
            "candle 1: field 'open': expected a decimal number, got 'NaN'",
        ),
        ('{"granularity": "H1", "candles": []}', "field 'granularity': expected M1"),
        (
            '{"instrument": "GBP_USD", "candles": []}',
            "field 'instrument': expected EUR/USD, as asked for, got 'GBP_USD'",
        ),
    ],
)
def test_bad_json_is_named_by_place_and_field(tmp_path: Path, text: str, told: str) -> None:
    path = write(tmp_path / "bad.json", text)
    with pytest.raises(InputError) as error:
        list(read_events(path, INSTRUMENTS, "EUR/USD"))
    assert str(error.value).startswith(f"{path}: {told}")


def test_a_float_that_is_no_price_of_the_tick_grid_is_rounded_from_its_text(tmp_path: Path) -> None:
    path = write(tmp_path / "q.csv", "time,bid,ask", f"{T0},1.1776199999999999,1.1776250000000000001")
    assert (events(path).bid[0], events(path).ask[0]) == (1_177_620_000, 1_177_630_000)


def test_other_files_are_refused_by_what_they_hold(tmp_path: Path) -> None:
    def refused(path: Path, **options: Any) -> str:
        with pytest.raises(InputError) as error:
            list(read_events(path, INSTRUMENTS, "EUR/USD", **options))
        return str(error.value)

    assert "cannot be read: No such file" in refused(tmp_path / "none.csv")
    assert "cannot be read: Is a directory" in refused(tmp_path)
    assert ".bi5 is not supported" in refused(write(tmp_path / "00h_ticks.bi5", "]"))
    assert "expected the columns time, open, high, low, close[, volume] or time, bid, ask" in refused(
        write(tmp_path / "x.csv", "when,price", "1,2")
    )
    assert "expected the columns time, bid, ask" in refused(candle_csv(tmp_path / "c.csv"), format="quote-csv")
    assert "not Parquet" in refused(write(tmp_path / "x.parquet", "PAR1 and no more"))
    (tmp_path / "noise.csv").write_bytes(bytes(range(128, 256)) * 10)
    assert "line 1: expected a header of column names, got bytes" in refused(tmp_path / "noise.csv")
    assert "format: expected one of" in refused(candle_csv(tmp_path / "c.csv"), format="xml")
    with pytest.raises(InputError, match="unknown instrument 'EURCHF'"):
        list(read_events(tmp_path / "c.csv", INSTRUMENTS, "EURCHF"))


def test_candles_of_another_duration_are_not_taken_for_minutes(tmp_path: Path) -> None:
    rows = [f"{T0 + 300 * k},1,1,1,1" for k in range(40)]
    path = write(tmp_path / "m5.csv", "time,open,high,low,close", *rows)
    with pytest.raises(
        InputError, match="candles are 5 minutes apart, or multiples of it; expected one-minute candles"
    ):
        events(path)
    del rows[15:]
    assert len(events(write(tmp_path / "few.csv", "time,open,high,low,close", *rows))) == 15


def test_columns_not_read_are_told(tmp_path: Path) -> None:
    notes: list[str] = []
    path = write(tmp_path / "q.csv", "time,bid,ask,bid_size,venue", f"{T0},1,2,3,X")
    events(path, note=notes.append)
    assert notes == [f"{path}: columns not read: venue"]
    list(read_events(write(path, "time,bid,ask"), INSTRUMENTS, "EUR/USD", note=notes.append))
    assert notes[1] == f"{path}: holds no candles or quotes"


def test_files_follow_each_other_in_time(tmp_path: Path) -> None:
    def quotes(name: str, *seconds: int) -> Path:
        return write(tmp_path / name, "time,bid,ask", *(f"{T0 + s},1,2" for s in seconds))

    first, second, overlapping = quotes("a.csv", 0, 5), quotes("b.csv", 6, 7), quotes("c.csv", 3, 9)
    both = EventBatch.concatenate([batch for _, batch in read_files([first, second], INSTRUMENTS, "EUR/USD")])
    assert [both.sources[code] for code in both.source] == ["file:a.csv"] * 2 + ["file:b.csv"] * 2
    for paths in ([second, first], [first, quotes("d.csv", 0, 9)]):
        with pytest.raises(InputError, match="give files in time order"):
            next(read_files(paths, INSTRUMENTS, "EUR/USD"))
    with pytest.raises(InputError, match=r"c.csv: begins at 2024-02-05T00:00:03Z, the file before it ends at"):
        list(read_files([first, overlapping], INSTRUMENTS, "EUR/USD"))


def test_the_real_quotes_make_the_golden_bars(shared_data: Path) -> None:
    golden = json.loads((shared_data / "golden_bars.json").read_text())
    converter = MarketDataConverter(INSTRUMENTS)
    bars = []
    for batch in read_events(shared_data / golden["source"], INSTRUMENTS, golden["instrument"]):
        bars += converter.feed(batch).bars.tolist()
    names = [*converter.feed(batch.take(slice(0, 0))).bars.dtype.names]
    rows = [dict(zip(names, bar, strict=True)) for bar in bars]
    expected = [dict(zip(golden["columns"], bar, strict=True)) for bar in golden["bars"]]
    assert [(r["open"], r["high"], r["low"], r["close"], r["volume_units"]) for r in rows] == [
        (e["open"], e["high"], e["low"], e["close"], e["volume"]) for e in expected
    ]
    assert [r["open_time_s"] for r in rows] == [
        int(datetime.fromisoformat(e["open_time"]).timestamp()) for e in expected
    ]


def test_the_real_candles_are_read_whole(shared_data: Path) -> None:
    eurusd = events(shared_data / "eurusd_m1_2025-07-23.json")
    assert len(eurusd) == 2880
    assert not (eurusd.close % 10_000).any()
    for side in ("bid", "ask"):
        assert len(events(shared_data / f"gbpusd_m1_{side}_2012-02.csv", "GBPUSD")) == 30_117
