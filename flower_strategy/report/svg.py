"""Writing markup: every text and attribute that comes from outside is escaped here."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any


def element(name: str, /, *children: str, **attributes: str | float | None) -> str:
    """Return an element of HTML or SVG.

    Parameters
    ----------
    name : str
        The element.
    *children : str
        Markup, already escaped: of `element` or `escaped`.
    **attributes : str, float or None
        Attributes; escaped. ``_`` stands for ``-``, one at the end is dropped (``class_``), those
        that are None are left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{''.join(children)}</{name}>"


def escaped(text: str) -> str:
    """Return text as markup."""
    return html.escape(text)


def path(points: Iterable[tuple[float, float]]) -> str:
    """Return the path through points."""
    return "".join(
        f"{'L' if index else 'M'}{_short(x)} {_short(y)}" for index, (x, y) in enumerate(points)
    )


def boxes(corners: Iterable[tuple[float, float]], width: float, height: float) -> str:
    """Return one path with a box of one size at each of the upper left corners."""
    w, h = _short(width), _short(height)
    return "".join(f"M{_short(x)} {_short(y)}h{w}v{h}h-{w}z" for x, y in corners)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of texts, which scrolls by itself where it is wider than the page."""
    head = element("tr", *(element("th", escaped(cell), scope="col") for cell in header))
    body = [element("tr", *(element("td", escaped(cell)) for cell in row)) for row in rows]
    whole = element("table", element("thead", head), element("tbody", *body))
    return element("div", whole, class_="scroll", tabindex="0", role="region", aria_label="Table")


def json_island(identifier: str, content: Any) -> str:
    """Return data for scripts; nothing in it can end the element that holds it."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f'<script type="application/json" id="{html.escape(identifier)}">{text}</script>'


def _attribute(value: str | float) -> str:
    return html.escape(value) if isinstance(value, str) else _short(value)


def _short(value: float) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text
