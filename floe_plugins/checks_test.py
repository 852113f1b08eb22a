from __future__ import annotations

import math

import pytest

from floe_plugins.checks import is_integer, is_number


@pytest.mark.parametrize("value", [0, -1.5, 10**300])
def test_numbers(value: object) -> None:
    assert is_number(value)


@pytest.mark.parametrize("value", [True, "1", None, math.inf, -math.inf, math.nan, 10**400])
def test_what_is_no_number(value: object) -> None:
    assert not is_number(value)


def test_integers_have_a_range() -> None:
    assert is_integer(3, least=3, most=3)
    assert is_integer(10**400, least=1)
    assert not any(is_integer(value, least=1, most=5) for value in (0, 6, True, 2.0, "2"))
