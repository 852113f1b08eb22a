from pathlib import Path

import pytest

from floe_plugins.system import cache_dir, state_dir


def test_own_variable_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("FLOE_CACHE_DIR", str(tmp_path / "own"))
    assert cache_dir() == state_dir() == tmp_path / "own"


def test_xdg_folder_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("FLOE_CACHE_DIR", raising=False)
    assert cache_dir() == tmp_path / "xdg" / "floe-llm"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert state_dir() == tmp_path / "state" / "floe-llm"
