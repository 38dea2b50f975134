"""The report as a page."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pytest

from sep_stream.backtest import report
from sep_stream.backtest.charts import POINTS_MAX, equity_chart, thinned
from sep_stream.backtest.notation import time_text
from sep_stream.backtest.report import TRADES_LISTED_MAX, render_report
from sep_stream.backtest.results import ReportData
from sep_stream.backtest.summary import summary
from tests.backtest.made_results import made_up
from tests.backtest.odd_results import ODD_DATA, few, first

VOID = {"meta"}


class Page(HTMLParser):
    """Elements with their attributes, ids, visible text; fails where elements are not closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open and data.strip():
            self.text.append(data)


@cache
def rendered() -> tuple[ReportData, str, Page]:
    data = made_up(days=2)
    text = render_report(data)
    return data, text, Page(text)


def values(page: Page, name: str) -> Iterator[str]:
    return (value for _, attributes in page.elements if (value := attributes.get(name)) is not None)


def test_the_verdict_comes_first() -> None:
    data, _, page = rendered()
    sentence = summary(data)["verdict"]["sentence"]
    body = page.text[page.text.index(data.title) + 1 :]
    assert body[:2] == [data.title, sentence]


def test_synthetic_data_are_named_so_right_below() -> None:
    page = rendered()[2]
    assert any(text.startswith("These data are synthetic") for text in page.text[:4])
    real = Page(render_report(replace(few(), synthetic=False)))
    assert not any("synthetic" in text for text in real.text)


def test_nothing_is_fetched_from_elsewhere() -> None:
    _, text, page = rendered()
    assert not re.search(r"https?:|//\w|@import|url\((?!#)", text)
    assert {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object", "embed", "base"} == set()
    assert list(values(page, "src")) == []
    assert all(value.startswith("#") for value in values(page, "href"))


def test_every_id_is_there_once_and_what_is_referred_to_exists() -> None:
    _, text, page = rendered()
    ids = list(values(page, "id"))
    assert len(ids) == len(set(ids))
    referred = {value[1:] for value in values(page, "href")} | set(re.findall(r"url\(#([^)]+)\)", text))
    assert referred <= set(ids)


def test_a_page_has_its_three_charts_that_take_its_colours() -> None:
    _, text, page = rendered()
    charts = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(charts) == 3
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    assert "stroke: var(--own)" in text
    assert "<metadata" not in text


def test_it_can_be_printed() -> None:
    _, text, _ = rendered()
    assert "@media print" in text
    assert "table-header-group" in text


@cache
def elsewhere() -> list[str]:
    """What another process says: whether Matplotlib is there before a page is made, and the page's hash."""
    code = "import hashlib, sys; from sep_stream.backtest.report import render_report; "
    code += "from tests.backtest.odd_results import few; "
    code += "print('matplotlib' in sys.modules, hashlib.sha256(render_report(few()).encode()).hexdigest())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_equal_data_give_equal_bytes_in_another_process_too() -> None:
    assert elsewhere()[1] == hashlib.sha256(render_report(few()).encode()).hexdigest()


def test_the_users_own_style_of_charts_has_no_part_in_it() -> None:
    text = render_report(few())
    with mpl.rc_context({"lines.linewidth": 7, "axes.facecolor": "yellow", "svg.fonttype": "path"}):
        assert render_report(few()) == text
        assert mpl.rcParams["lines.linewidth"] == 7


def test_a_summary_that_was_made_before_gives_the_same_page() -> None:
    assert render_report(few(), summary(few())) == render_report(few())


def test_text_from_outside_is_text() -> None:
    evil = '<script>alert("1 & 2")</script>'
    data = made_up(
        days=1,
        title=evil,
        source=evil,
        symbols=(evil, "b"),
        quote_currencies=(evil, "c"),
        parameters={evil: evil},
        counts={evil: 1},
    )
    data = replace(first(data, 10), folds=(replace(data.folds[0], model_id=evil),))
    text = render_report(data)
    assert "<script" not in text
    assert Page(text).text.count(evil) >= 7


@pytest.mark.parametrize("name", ODD_DATA)
def test_odd_data_have_a_sound_page(name: str) -> None:
    page = Page(render_report(ODD_DATA[name]()))
    assert not re.search(r"\b(nan|inf|None)\b", " ".join(page.text))


def test_no_number_is_a_python_word() -> None:
    assert not re.search(r"\b(nan|inf|None)\b", " ".join(rendered()[2].text))


def test_a_long_list_of_trades_shows_both_ends_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "TRADES_LISTED_MAX", 20)
    data = made_up(days=1)
    page = Page(render_report(data))
    assert sum(text in ("BUY", "SELL") for text in page.text) == 20
    times = sorted(data.trades["entry_time_s"].tolist())
    assert all(time_text(time_s) in page.text for time_s in (*times[:10], *times[-10:]))
    left_out = f"{len(data.trades) - 20:,} trades in between are in trades.parquet only"
    assert any(left_out in text for text in page.text)


def test_each_fold_and_each_trade_of_a_short_list_is_there() -> None:
    data, _, page = rendered()
    assert len(data.trades) <= TRADES_LISTED_MAX
    assert sum(text in ("BUY", "SELL") for text in page.text) == len(data.trades)
    for fold in data.folds:
        assert fold.model_id in page.text


def test_a_gain_like_that_of_always_buying_is_said_to_be() -> None:
    data = made_up(days=2)
    trades = data.trades.copy()
    trades["direction"] = 1
    trades["return_bp"] = np.abs(trades["return_bp"])
    page = Page(render_report(replace(data, trades=trades)))
    assert any(text.startswith("It cannot be told from the gain of always buying") for text in page.text)


def test_a_thinned_line_keeps_its_ends_and_turns() -> None:
    values = np.cumsum(np.random.default_rng(1).normal(size=100_000))
    values[31_415], values[59_265] = 9e3, -9e3
    kept = thinned(values, -values)
    assert len(kept) <= POINTS_MAX + 2
    assert (np.diff(kept) > 0).all()
    assert {0, 31_415, 59_265, 99_999} <= set(kept.tolist())


def test_a_chart_of_many_trades_is_small() -> None:
    count = 200_000
    equity = np.cumsum(np.random.default_rng(1).normal(size=count))
    assert len(equity_chart(np.arange(count) * 60, equity)) < 100_000


def test_matplotlib_waits_until_a_chart_is_drawn() -> None:
    assert elsewhere()[0] == "False"
