from __future__ import annotations

import pytest

from flower_strategy.data.files import FORMATS
from tools import data_forms


def test_the_page_says_what_becomes_of_every_form() -> None:
    text = data_forms.PAGE.read_text("utf-8")
    assert data_forms.page(text) == text


def test_every_form_that_is_known_has_a_row() -> None:
    assert data_forms.unknown() == []


def test_the_page_names_every_format() -> None:
    text = data_forms.PAGE.read_text("utf-8")
    assert all(f"`{suffix}`" in text for suffix in FORMATS)


def test_a_page_without_its_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no block"):
        data_forms.page("# Data\n")
