"""What the demo's events became in the database and in the cache, read back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any, Final, LiteralString

from psycopg import sql
from rich.console import Console
from rich.table import Table

from sep_stream.errors import DependencyError
from sep_stream.market.timeframes import TIMEFRAMES
from sep_stream.runtime.settings import Settings
from sep_stream.stores.cache import Cache
from sep_stream.stores.database import READ, connect, told
from sep_stream.stores.sinks import lags

SUNK_S_MAX: Final = 120.0
_POLL_S: Final = 0.25
_PLACE: Final = "pair || ' ' || timeframe"
_NEWEST: Final[dict[str, tuple[LiteralString, LiteralString, LiteralString]]] = {
    "market_data": (_PLACE, '"timestamp"', "trim_scale(close)::text"),
    "signals": (_PLACE, "available_at", "direction || ' ' || round(confidence::numeric, 3)"),
    "quantum_patterns": ("pair", "NULL::timestamptz", "octet_length(pattern_data) || ' bytes'"),
    "trading_results": (_PLACE, "exit_time", "direction || ' ' || round(profit_loss, 2)"),
}
"""By table, what is shown of its newest row: which it is, its time, what it says."""


_COUNT: Final = "SELECT count(*) FROM {table}"
_SHOWN: Final = """
SELECT {place}, to_char({at} AT TIME ZONE 'UTC', 'MM-DD HH24:MI'), {what}
FROM {table} ORDER BY {at} DESC NULLS LAST, 1 LIMIT 1"""


def show_stores(settings: Settings, symbols: Sequence[str], console: Console) -> None:
    """Wait until the sinks have written all that there is, then show rows and cached values.

    Raises DependencyError where they take too long, or a server does not answer.
    """
    _await_sinks(settings)
    console.print(_rows(settings))
    console.print(_cached(settings, symbols))


def _await_sinks(settings: Settings) -> None:
    deadline_s = time.monotonic() + SUNK_S_MAX
    while not (behind := lags(settings)) or any(behind.values()):
        if time.monotonic() > deadline_s:
            left = ", ".join(f"{name} {count:,}" for name, count in behind.items() if count) or "nothing is known"
            raise DependencyError(
                f"the sinks have not written all within {SUNK_S_MAX:.0f} s ({left} to read); see `sep-stream connect "
                f"status --data-dir {settings.data_dir} --prefix {settings.prefix}`"
            )
        time.sleep(_POLL_S)


def _rows(settings: Settings) -> Table:
    table = Table(title="In PostgreSQL", title_justify="left")
    for name in ("table", "rows", "the newest", "at (UTC)", ""):
        table.add_column(name, justify="right" if name == "rows" else "left", no_wrap=True)
    with closing(connect(settings, READ)) as connection, told(connection):
        for name, parts in _NEWEST.items():
            place, at, what = map(sql.SQL, parts)
            count, newest = (
                connection.execute(sql.SQL(statement).format(table=sql.Identifier(name), place=place, at=at, what=what))
                for statement in (_COUNT, _SHOWN)
            )
            [(rows,)] = count.fetchall()
            table.add_row(name, f"{rows:,}", *map(_text, newest.fetchone() or ()))
    return table


def _cached(settings: Settings, symbols: Sequence[str]) -> Table:
    table = Table(title="In Redis", title_justify="left")
    for name in ("symbol", "price", *TIMEFRAMES):
        table.add_column(name)
    cache = Cache(settings)
    prices = cache.prices(symbols)
    signals = cache.signals((symbol, timeframe) for symbol in symbols for timeframe in TIMEFRAMES)
    for symbol in symbols:
        price, found = prices[symbol], [signals[symbol, timeframe] for timeframe in TIMEFRAMES]
        said = [f"{signal.direction} {signal.confidence:.3f}" if signal else "-" for signal in found]
        table.add_row(symbol, str(price.price) if price else "-", *said)
    return table


def _text(value: Any) -> str:
    return "" if value is None else str(value)
