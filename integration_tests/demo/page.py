"""One self-contained HTML page with the closing table and the figures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from integration_tests.demo.answering import Answer
from integration_tests.demo.table import COLUMNS, cluster_rows, row

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 70rem; padding: 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid #ccc; padding: .4rem; text-align: left; vertical-align: top; }
td { overflow-wrap: anywhere; white-space: pre-wrap; font-size: .9rem; }
img { max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
"""


def write_page(
    path: Path,
    *,
    clusters: Sequence[Mapping[str, object]],
    answers: Sequence[Answer],
    figures: Mapping[str, Path],
) -> None:
    """Write the page; figures are embedded, so that the file can be moved alone."""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<link rel='icon' href='data:,'><title>Floe: demonstration</title><style>{_STYLE}</style>",
        "</head><body><h1>Floe: demonstration</h1>",
        "<h2>Held-out loss per cluster</h2>",
        _table(("cluster", "devices", "before", "after"), cluster_rows(clusters)),
        "<h2>Answers</h2>",
        _table(COLUMNS, [row(answer) for answer in answers]),
    ]
    for title, file in figures.items():
        data = base64.b64encode(file.read_bytes()).decode()
        text = escape(title)
        parts.append(f"<h2>{text}</h2><img alt='{text}' src='data:image/png;base64,{data}'>")
    path.write_text("\n".join([*parts, "</body></html>"]), encoding="utf-8")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>" for cells in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class='wide'>{table}</div>"
