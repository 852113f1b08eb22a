from __future__ import annotations

import math
from pathlib import Path

import pytest

from floe_plugins.config import ApiKey, ApiKeyError, is_integer, is_number, is_url, refuse_unknown
from floe_plugins.errors import ConfigError


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


@pytest.mark.parametrize(
    "value", ["http://h", "https://h:8443/v1", "http://me:secret@h/v1", "http://[::1]:8000/v1"]
)
def test_urls(value: str) -> None:
    assert is_url(value)


@pytest.mark.parametrize(
    "value",
    [
        "h:8000/v1",
        "ftp://h",
        "http://",
        "http://:80",
        "http://h:0",
        "http://h:65536",
        "http://h:x",
        "http://[::1",
        b"http://h",
        None,
    ],
)
def test_what_is_no_url(value: object) -> None:
    assert not is_url(value)


def test_the_first_unknown_key_is_named_with_what_is_accepted() -> None:
    refuse_unknown(["a"], ["a", "b"], where="The file")
    with pytest.raises(ConfigError, match=r"^The file has the key 'c'; accepted are a, b\.$"):
        refuse_unknown(["a", "c"], ["a", "b"], where="The file")


def test_a_key_that_cannot_be_read_is_an_error_without_the_key(tmp_path: Path) -> None:
    file = tmp_path / "key"
    key = ApiKey(file=file)
    with pytest.raises(ApiKeyError, match=r"cannot be read \(FileNotFoundError\)"):
        key.headers()
    file.write_bytes("schlüssel".encode())
    with pytest.raises(ApiKeyError, match=r"cannot be read \(UnicodeDecodeError\)"):
        key.headers()


def test_without_a_key_no_header_is_sent() -> None:
    assert ApiKey().headers() == []


def test_a_key_is_not_shown() -> None:
    assert "sesame" not in repr(ApiKey("open-sesame"))
