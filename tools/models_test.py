from __future__ import annotations

import pytest

from flower_strategy.testing.architectures import ARCHITECTURES, Architecture
from tools import models

LINES = models.PAGE.read_text("utf-8").splitlines(keepends=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda each: each.kind)
def test_the_page_says_what_is_found(architecture: Architecture) -> None:
    assert models.row(architecture) in LINES


def test_the_page_has_no_other_architecture() -> None:
    table = [line for line in LINES if line.startswith("| ")]
    assert "".join(table[:2]) == models.HEAD
    titles = [line.split(" | ")[0].removeprefix("| ") for line in table[2:]]
    assert titles == [each.title for each in ARCHITECTURES]


def test_a_page_without_its_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no block"):
        models.page("# Models\n", [])
