"""The README's figures equal those of the results that it links to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
SECTION = re.search(r"^## What it gains.*?\n(?=- )(.*?)\n\n", README, re.MULTILINE | re.DOTALL)
POINTS = re.split(r"^- ", SECTION[1], flags=re.MULTILINE)[1:] if SECTION else []

#: A measured number: one with a decimal point, a percentage, megabytes, or so many times.
_FIGURE = re.compile(r"(?<![\w.-])(\d+\.\d+|\d+(?= %| MB| times))")


def test_there_are_figures_for_every_half_and_the_gate() -> None:
    assert len(POINTS) == 4
    assert all(_FIGURE.search(point) for point in POINTS)


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.split("**")[1])
def test_a_figure_stands_on_a_page_that_its_point_links(point: str) -> None:
    pages = [ROOT / path for path in re.findall(r"\]\((docs/results/\w+\.md)\)", point)]
    told = " ".join(page.read_text("utf-8") for page in pages)
    for figure in _FIGURE.findall(point):
        assert re.search(rf"(?<![\d.]){re.escape(figure)}(?!\d|\.\d)", told), (
            f"{figure} is on none of {[page.name for page in pages]}"
        )
