from __future__ import annotations

import pytest

from floe_plugins.token_ids import read_token_ids


@pytest.mark.parametrize(
    ("tokens", "ids"),
    [
        ([], []),
        (["token_id:7"], [7]),
        (["token_id:7", "token_id:49151"], [7, 49151]),
        ([" Paris"], None),
        (["token_id:7token_id:8"], None),
        ([" Paris", "token_id:7"], None),
        (["token_id:7", " Paris"], None),
    ],
)
def test_ids_are_read_and_spellings_are_not(tokens: list[str], ids: list[int] | None) -> None:
    assert read_token_ids(tokens) == ids


def test_what_is_no_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        read_token_ids(["token_id:7", "token_id:x"])
