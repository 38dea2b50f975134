"""Refused records by topic, reason and instrument, as the command line prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sep_stream.history.refused import Counts


def count_rows(counts: Counts) -> list[dict[str, Any]]:
    """One for each topic, reason and instrument (None where it is not known), the most of a topic first."""
    rows = [
        {"topic": topic, "code": code, "instrument": instrument, "count": count}
        for (topic, code, instrument), count in counts.items()
    ]
    return sorted(rows, key=lambda row: (row["topic"], -row["count"], row["code"], row["instrument"] or ""))


def count_lines(counts: Counts) -> list[str]:
    """The same as text."""
    return [
        f"  {row['count']:>12,}  {row['topic']:13} {row['code']:19} {row['instrument'] or '?'}"
        for row in count_rows(counts)
    ]
