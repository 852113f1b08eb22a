from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from floe_plugins.llama_server import (
    GgufAdapter,
    LlamaServerError,
    LlamaSettings,
    find_adapters,
    start,
)


def a_run(folder: Path, *names: str) -> Path:
    """Write the layout of a run's result, with the links of an output folder."""
    result = folder / "exports" / "round-0001"
    for name in names:
        (result / name).mkdir(parents=True)
        (result / name / "adapter_model.gguf").write_bytes(b"GGUF")
    (result / "manifest.json").write_text("{}")
    (folder / "exports" / "current").symlink_to("round-0001")
    (folder / "manifest.json").symlink_to("exports/current/manifest.json")
    for name in names:
        (folder / name).symlink_to(f"exports/current/{name}")
    return result


def test_the_adapters_of_a_run_are_those_of_its_current_result(tmp_path: Path) -> None:
    result = a_run(tmp_path, *(f"cluster-{number}" for number in range(12)))
    # What an earlier layout has left there.
    (tmp_path / "cluster-99").mkdir()
    (tmp_path / "cluster-99" / "adapter_model.gguf").write_bytes(b"GGUF")
    assert find_adapters(tmp_path) == tuple(
        GgufAdapter(number, f"cluster-{number}", result / f"cluster-{number}/adapter_model.gguf")
        for number in range(12)
    )


def test_files_of_a_folder_are_adapters_by_their_names(tmp_path: Path) -> None:
    for name in ("b.gguf", "a.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    assert [(each.id, each.name) for each in find_adapters(tmp_path)] == [(0, "a"), (1, "b")]


def test_one_adapters_folder_names_it(tmp_path: Path) -> None:
    a_run(tmp_path, "cluster-0", "cluster-1")
    (found,) = find_adapters(tmp_path / "cluster-1")
    assert (found.id, found.name) == (0, "cluster-1")


def test_a_run_without_gguf_files_is_told_how_to_write_them(tmp_path: Path) -> None:
    (tmp_path / "cluster-0").mkdir()
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(LlamaServerError, match=rf"export {re.escape(str(tmp_path))} --to gguf`\.$"):
        find_adapters(tmp_path)
    with pytest.raises(LlamaServerError, match=r"There is no folder .*absent"):
        find_adapters(tmp_path / "absent")


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        settings = LlamaSettings(model=tmp_path / "model.gguf", name="model", port=port)
        with pytest.raises(LlamaServerError, match=f"^Port {port} of 127.0.0.1 is taken: choose"):
            start(settings)


def test_an_address_of_another_machine_is_named(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    settings = LlamaSettings(model=tmp_path / "model.gguf", name="model", host="192.0.2.1")
    with pytest.raises(LlamaServerError, match=r"^Nothing can listen on 192\.0\.2\.1:8081 \("):
        start(settings)


def test_llama_cpps_reason_is_in_the_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("xllamacpp")
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF" + b"\x07" + bytes(100))
    with pytest.raises(LlamaServerError) as raised:
        start(LlamaSettings(model=model, name="model", port=0))
    assert str(raised.value).startswith(f"llama.cpp does not load {model}: ")
    assert "\n" not in str(raised.value)
    assert "check the input params" not in str(raised.value)
    # What it writes to standard error by itself is in the sentence.
    assert capfd.readouterr().err == ""
