"""A figure of the page: drawing, legend, caption, and its values as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flower_strategy.report.cell_charts import SHADES
from flower_strategy.report.charts import marker
from flower_strategy.report.svg import element, escaped, table
from flower_strategy.report.text import number_text

_MOST_ROWS = 400


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure.

    Attributes
    ----------
    name : str
        Identifier in the page.
    title, caption : str
        Its heading, and what it shows in a sentence or two.
    drawing : str
        Markup; empty where there is nothing to draw, and then `missing` says why.
    legend : Sequence[str]
        Entries, markup.
    header, rows : Sequence
        The values as a table of texts; none without a header.
    """

    name: str
    title: str
    caption: str
    drawing: str
    missing: str = ""
    legend: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()

    def markup(self) -> str:
        """Return the figure as HTML."""
        parts = [element("h2", escaped(self.title))]
        if not self.drawing:
            parts.append(element("p", escaped(self.missing), class_="missing"))
        else:
            if self.legend:
                entries = (element("li", entry) for entry in self.legend)
                parts.append(element("ul", *entries, class_="legend"))
            parts.append(element("div", self.drawing, class_="scroll"))
        parts.append(element("figcaption", escaped(self.caption)))
        if self.drawing and self.header:
            shown = self.rows[:_MOST_ROWS]
            more = len(self.rows) - len(shown)
            values = table(self.header, shown)
            if more:
                values += element("p", escaped(f"{more:,} more rows are in `report --json`."))
            parts.append(element("details", element("summary", "Values"), values))
        return element("figure", *parts, id=f"figure-{self.name}")


def series_legend(names: Iterable[tuple[str, int]]) -> list[str]:
    """Return legend entries of (name, style)."""
    return [swatch(marker(style, 8, 8, size=5), name) for name, style in names]


def line_legend(name: str, *, dashed: bool) -> str:
    """Return the legend entry of a kind of line."""
    kind = "line ink dashed" if dashed else "line ink dash0"
    return swatch(element("path", d="M0 8H16", class_=kind), name)


def shade_legend(low: float, high: float) -> list[str]:
    """Return the legend entry of the shades from a lowest to a highest value."""
    width = 10
    bar = [
        element("rect", x=width * shade, width=width + 0.5, height=12, class_=f"shade{shade}")
        for shade in range(SHADES)
    ]
    total = width * SHADES
    svg = element(
        "svg", *bar, viewBox=f"0 0 {total} 12", width=total, height=12, aria_hidden="true"
    )
    return [f"{escaped(number_text(low))} {svg} {escaped(number_text(high))}"]


def swatch(drawing: str, name: str) -> str:
    """Return a legend entry of 16 by 16 units of drawing, and a name."""
    svg = element("svg", drawing, viewBox="0 0 16 16", width=16, height=16, aria_hidden="true")
    return svg + element("span", escaped(name), title=name)


def square(kind: str) -> str:
    """Return a square for `swatch`, of a class of the style sheet."""
    return element("rect", x=1, y=1, width=14, height=14, class_=kind)
