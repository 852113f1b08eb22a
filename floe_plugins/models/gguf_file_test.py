from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from floe_plugins.errors import ModelError
from floe_plugins.models.embedded import MODELS
from floe_plugins.models.gguf_file import resolve_gguf


def needs(name: str) -> None:
    try:
        distribution(MODELS[name].distribution)
    except PackageNotFoundError:
        pytest.skip(f"{MODELS[name].distribution} is not installed")


@pytest.mark.parametrize("name", MODELS)
def test_an_embedded_model_is_its_own_file_or_the_joined_parts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(name)
    monkeypatch.setenv("FLOE_CACHE_DIR", str(tmp_path))
    path = resolve_gguf(f"embedded:{name}", progress=False)
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == MODELS[name].sha256
    joined = len(MODELS[name].parts) > 1
    assert path.is_relative_to(tmp_path) == joined
    made = path.stat().st_mtime_ns
    assert resolve_gguf(f"embedded:{name}", progress=False) == path
    assert path.stat().st_mtime_ns == made
    if joined:
        assert {each.name for each in path.parent.iterdir()} > {"model.gguf", "floe-manifest.json"}


def test_a_file_and_a_folder_with_one_are_found(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF and more")
    assert resolve_gguf(str(path)) == resolve_gguf(str(tmp_path)) == path


def test_what_is_no_gguf_is_said_with_what_to_do(tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"PK\x03\x04")
    (tmp_path / "empty").mkdir()
    for name, message in (
        (str(other), r"other\.gguf is no GGUF file: it begins with b'PK"),
        (str(tmp_path / "absent.gguf"), "There is no file .*absent.gguf.* embedded:smollm2"),
        (str(tmp_path / "empty"), "holds 0 files .*convert_hf_to_gguf"),
        ("embedded:other", "There is no embedded model 'other'"),
    ):
        with pytest.raises(ModelError, match=message):
            resolve_gguf(name)
