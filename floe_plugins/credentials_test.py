from __future__ import annotations

from pathlib import Path

import pytest

from floe_plugins.credentials import ApiKey, ApiKeyError


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
