"""Charts as SVG that stands inside an HTML page and takes its colours from it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from sep_stream.backtest.measures import Floats, drawdown
from sep_stream.backtest.page import Html, element

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, RULE, OWN, FALL = "#1c2128", "#5d6673", "#d3d8de", "#0b6e99", "#b3403a"
_PAGE_COLOURS: Final = {INK: "--ink", FAINT: "--faint", RULE: "--rule", OWN: "--own", FALL: "--fall"}
"""Each is drawn as the page's variable, so that charts follow it into the dark and onto paper."""

WIDTH_IN: Final = 5.0
"""360 of the chart's units, about the width of a phone: there its letters are as large as they are here."""
POINTS_MAX: Final = 800
"""Of a line; more would not be seen."""

_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sep-stream",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": RULE,
    "axes.labelcolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def equity_chart(time_s: npt.NDArray[np.int64], equity_bp: Floats) -> Html:
    """Equity over time, below it the drawdown. time_s, equity_bp: (n,), n > 0, in time order."""
    below = drawdown(equity_bp)
    kept = thinned(equity_bp, below)
    time, equity, fall = time_s[kept].astype("datetime64[s]"), equity_bp[kept], -below[kept]

    def draw(figure: Figure) -> None:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        upper.plot(time, equity, color=OWN, linewidth=1.2, drawstyle="steps-post")
        upper.axhline(0, color=FAINT, linewidth=0.8)
        upper.set_ylabel("equity, bp")
        lower.fill_between(time, fall, 0, step="post", color=FALL, alpha=0.35, linewidth=0)
        lower.plot(time, fall, color=FALL, linewidth=0.8, drawstyle="steps-post")
        lower.set_ylabel("drawdown, bp")
        locator = AutoDateLocator(minticks=3, maxticks=6)
        lower.xaxis.set_major_locator(locator)
        lower.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        figure.align_ylabels()

    label = "Sum of returns after costs over time, and how far it lies below its highest"
    return _chart("equity", label, 3.6, draw)


def confidence_chart(bins: Sequence[Mapping[str, Any]]) -> Html:
    """Hit rate by confidence, from summary()["by_confidence"], not empty."""
    points = [(found["confidence"], found["hit_rate"]) for found in bins]
    label = "Share of forecasts that were right, by confidence"
    return _rates("confidence", label, points, "confidence", "hit rate")


def reliability_chart(bins: Sequence[Mapping[str, Any]]) -> Html:
    """Observed by forecast probability, from summary()["reliability"], not empty."""
    points = [(found["forecast_rate"], found["observed_rate"]) for found in bins]
    label = "Share of forecasts after which the market rose, by the probability that was forecast"
    return _rates("reliability", label, points, "forecast probability of up", "observed rate of up")


def _rates(name: str, label: str, points: Sequence[tuple[float, Mapping[str, Any]]], x: str, y: str) -> Html:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axhline(0.5, color=FAINT, linewidth=0.8)
        axes.axline((0.5, 0.5), slope=1, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)), label="as forecast")
        _bars(axes, [(at, rate) for at, rate in points if rate["low"] is not None])
        few = [(at, rate["mean"]) for at, rate in points if rate["low"] is None]
        if few:
            axes.plot(*zip(*few, strict=True), "o", color=OWN, markerfacecolor="none", label="too few for an interval")
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.legend(loc="upper left")

    return _chart(name, label, 3.0, draw)


def _bars(axes: Axes, points: Sequence[tuple[float, Mapping[str, Any]]]) -> None:
    if not points:
        return
    at = [x for x, _ in points]
    low, mean, high = ([rate[name] for _, rate in points] for name in ("low", "mean", "high"))
    axes.vlines(at, low, high, color=OWN, linewidth=1.4, alpha=0.6)
    axes.plot(at, mean, "o", color=OWN, markersize=5, label="observed, 95 %")


def thinned(*series: Floats) -> npt.NDArray[np.intp]:
    """Rising rows of series (n,), at most about POINTS_MAX, with every turn that would be seen in any of them."""
    count = len(series[0])
    if count <= POINTS_MAX:
        return np.arange(count)
    edges = np.linspace(0, count, POINTS_MAX // (2 * len(series)) + 1).astype(np.intp)
    extremes = (
        start + int(extreme(values[start:stop]))
        for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        for values in series
        for extreme in (np.argmin, np.argmax)
    )
    return np.unique(np.fromiter((0, count - 1, *extremes), np.intp))


def _chart(name: str, label: str, height_in: float, draw: Callable[[Figure], None]) -> Html:
    from matplotlib.figure import Figure

    text = io.StringIO()
    with _style():
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        draw(figure)
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return element("figure", inline_svg(text.getvalue(), name, label))


@contextmanager
def _style() -> Iterator[None]:
    """Matplotlib as it comes, whatever the user's settings are, and our style on it."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def inline_svg(document: str, name: str, label: str) -> Html:
    """Matplotlib's SVG document as an element of a page: without what a file needs, its ids made the page's own."""
    numbers: dict[str, str] = {}

    def own(found: re.Match[str]) -> str:
        before, old, after = found.groups()
        return f"{before}{numbers.setdefault(old, f'{name}-{len(numbers)}')}{after}"

    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*|<style.*?</style>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'( id="|url\(#|xlink:href="#)([^")]+)([")])', own, svg).replace("xlink:href=", "href=")
    opening = rf'<svg \1 role="img" aria-label="{label}" stroke-linejoin="round">'
    svg = re.sub(r'<svg [^>]*(viewBox="[^"]*")[^>]*>', opening, svg, count=1)
    for colour, variable in _PAGE_COLOURS.items():
        svg = svg.replace(colour, f"var({variable})")
    return Html(svg.strip())
