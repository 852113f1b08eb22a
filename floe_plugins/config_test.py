from __future__ import annotations

from pathlib import Path

import pytest

from floe_plugins.config import ApiKey, ApiKeyError, is_url, refuse_unknown
from floe_plugins.errors import ConfigError


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
    refuse_unknown(["a"], ["a", "b"], said="The file has the key {key!r}; {listed}")
    with pytest.raises(ConfigError, match=r"^The file has the key 'c'; accepted are a, b\.$"):
        refuse_unknown(["a", "c"], ["a", "b"], said="The file has the key {key!r}; {listed}")


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
