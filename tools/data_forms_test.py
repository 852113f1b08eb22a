from __future__ import annotations

import pytest

from tools import data_forms


def test_the_page_says_what_becomes_of_every_form() -> None:
    text = data_forms.PAGE.read_text("utf-8")
    assert data_forms.page(text) == text


def test_every_form_that_is_known_has_a_row() -> None:
    assert data_forms.unknown() == []


def test_every_format_that_is_read_has_a_file() -> None:
    assert data_forms.unread() == []


def test_a_page_without_its_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no block <!-- forms -->"):
        data_forms.page("# Data\n")
    with pytest.raises(ValueError, match="there is no block <!-- files -->"):
        data_forms.page(data_forms.MARK + data_forms.END)
