"""Self-contained HTML pages: headings, tables and plotly figures in one file that needs no network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

MARKED, WRAPPED = ' class="marked"', ' class="text"'
CONFIG = {"displaylogo": False, "responsive": True}
STYLE = """
:root { color-scheme: light; --ink: #1d2433; --soft: #5b6475; --line: #e3e6ec; --accent: #3b528b; }
* { box-sizing: border-box; }
body { margin: 0; font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink);
  background: #f6f7f9; }
header, main { max-width: 1240px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 28px; }
h1 { margin: 0; font-size: 26px; letter-spacing: -0.01em; }
h2 { margin: 0 0 4px; font-size: 18px; }
p { margin: 4px 0 12px; color: var(--soft); max-width: 90ch; }
nav { margin: 10px 0 4px; display: flex; flex-wrap: wrap; gap: 4px 16px; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 20px 22px; margin: 16px 0; }
.wide { overflow: auto; max-height: 640px; }
thead th { position: sticky; top: 0; background: #fff; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child, th.text, td.text { text-align: left; }
td.text { white-space: normal; min-width: 260px; }
tr.marked td { background: #fff6e5; }
.facts { display: flex; flex-wrap: wrap; gap: 10px 34px; }
.facts div { min-width: 120px; }
.facts b { display: block; font-size: 20px; font-weight: 600; }
.facts span { color: var(--soft); font-size: 13px; }
pre { background: #f6f7f9; border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; overflow-x: auto;
  font-size: 13px; }
"""


@dataclass(frozen=True)
class Section:
    """A part of a page; `body` is HTML, title and note are text."""

    title: str
    body: str
    note: str = ""


def page(title: str, sections: Sequence[Section], subtitle: str = "") -> str:
    """A whole page with plotly.js inside."""
    from plotly.offline import get_plotlyjs

    contents = "".join(f'<a href="#s{i}">{escape(s.title)}</a>' for i, s in enumerate(sections))
    body = "".join(_section(i, section) for i, section in enumerate(sections))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{STYLE}</style>'
        f"<script>{get_plotlyjs()}</script></head><body>"
        f"<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p><nav>{contents}</nav></header>"
        f"<main>{body}</main></body></html>\n"
    )


def _section(number: int, section: Section) -> str:
    note = f"<p>{escape(section.note)}</p>" if section.note else ""
    return f'<section id="s{number}"><h2>{escape(section.title)}</h2>{note}{section.body}</section>'


def fragment(figure: Any) -> str:
    """A plotly figure as a part of a page."""
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config=CONFIG))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], marked: Sequence[int] = (), text: int = -1) -> str:
    """Cells as plain text; `marked` rows are highlighted, column number `text` is left-aligned and may wrap."""
    wrap = text % len(columns) if text < len(columns) else -1
    head = "".join(_cell("th", name, i == wrap) for i, name in enumerate(columns))
    lines = []
    for number, row in enumerate(rows):
        cells = "".join(_cell("td", value, i == wrap) for i, value in enumerate(row))
        lines.append(f"<tr{MARKED if number in marked else ''}>{cells}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def facts(values: Mapping[str, str]) -> str:
    inside = "".join(f"<div><b>{escape(v)}</b><span>{escape(k)}</span></div>" for k, v in values.items())
    return f'<div class="facts">{inside}</div>'


def preformatted(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def _cell(kind: str, value: str, wraps: bool) -> str:
    return f"<{kind}{WRAPPED if wraps else ''}>{escape(value)}</{kind}>"
