"""Pieces of an HTML page that needs nothing but itself, on a phone, a desk or paper."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Final


class Html(str):
    """Markup. Text that is not this is escaped wherever it enters a page."""

    __slots__ = ()


def element(tag: str, *content: str, **attributes: str) -> Html:
    """An element with its content one after the other; an attribute's trailing underscore is dropped."""
    named = "".join(f' {name.rstrip("_")}="{escape(value)}"' for name, value in attributes.items())
    return Html(f"<{tag}{named}>{''.join(map(_markup, content))}</{tag}>")


def _markup(content: str) -> str:
    return content if isinstance(content, Html) else escape(content)


def section(heading: str, *content: str) -> Html:
    return element("section", element("h2", heading), *content)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> Html:
    """A table whose first `words` columns are words; the others are numbers and stand to the right."""
    kinds = ["word" if k < words else "number" for k in range(len(headings))]
    head = element("tr", *_cells("th", headings, kinds))
    body = [element("tr", *_cells("td", row, kinds)) for row in rows]
    return element("div", element("table", element("thead", head), element("tbody", *body)), class_="wide")


def _cells(tag: str, texts: Sequence[str], kinds: Sequence[str]) -> Iterator[Html]:
    return (element(tag, text, class_=kind) for text, kind in zip(texts, kinds, strict=True))


def facts(pairs: Iterable[tuple[str, str]]) -> Html:
    """Names, each with what it stands for."""
    lines = (element("div", element("dt", name), element("dd", value)) for name, value in pairs)
    return element("dl", *lines)


def page(title: str, *content: str) -> str:
    """The whole document."""
    head = element(
        "head",
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        element("title", title),
        element("style", Html(STYLE)),
    )
    return f"<!DOCTYPE html>\n{element('html', head, element('body', element('main', *content)), lang='en')}\n"


STYLE: Final = """
:root {
  --paper: #ffffff; --ink: #1c2128; --faint: #5d6673; --rule: #d3d8de; --band: #f3f5f7;
  --own: #0b6e99; --fall: #b3403a; --warn-ink: #6b4a00; --warn: #fff3d1;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #14181d; --ink: #e4e8ec; --faint: #9aa5b1; --rule: #363e48; --band: #1d232a;
    --own: #58b4dc; --fall: #ec8078; --warn-ink: #ffdf94; --warn: #3a2f12;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; padding-top: .5rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
p { margin: .5rem 0; max-width: 46rem; }
.verdict { font-size: 1.2rem; line-height: 1.4; font-weight: 600; margin: .75rem 0;
  padding: .75rem 1rem; border-left: .3rem solid var(--own); background: var(--band); }
.warning { padding: .6rem 1rem; border-left: .3rem solid var(--warn-ink); background: var(--warn);
  color: var(--warn-ink); font-weight: 600; }
.note, figcaption { color: var(--faint); font-size: .9rem; }
.wide { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; min-width: 60%; }
th, td { padding: .3rem .6rem; text-align: left; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { font-weight: 600; border-bottom: 2px solid var(--rule); vertical-align: bottom; }
th:first-child, td:first-child { padding-left: 0; }
th, td { white-space: nowrap; }
.number { text-align: right; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); gap: .1rem 2rem; margin: .75rem 0;
  font-size: .9rem; }
dl div { display: flex; justify-content: space-between; gap: 1rem; border-bottom: 1px solid var(--rule);
  padding: .25rem 0; }
dt { color: var(--faint); flex: 1 1 0; }
dd { margin: 0; max-width: 75%; text-align: right; overflow-wrap: break-word; font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0; max-width: 38rem; }
figure svg { display: block; width: 100%; height: auto; }
figure svg text { font-family: inherit !important; }
@media screen {
  th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper); }
}
@media print {
  @page { margin: 14mm; }
  html { font-size: 9.5pt; }
  main { max-width: none; padding: 0; }
  .verdict, .warning { background: none; border: 1.5pt solid; }
  .wide { overflow: visible; }
  table { font-size: 7pt; min-width: 0; }
  th, td { padding: 1pt 3pt; }
  th { white-space: normal; }
  figure { max-width: 120mm; }
  h2, h3 { break-after: avoid; }
  thead { display: table-header-group; }
  tr, figure, dl div { break-inside: avoid; }
}
"""
