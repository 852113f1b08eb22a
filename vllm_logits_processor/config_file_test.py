"""The configuration as a file: the accepted forms, and the errors for others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from floe_plugins.errors import ConfigError
from vllm_logits_processor.config import FloeConfig
from vllm_logits_processor.config_file import read_config_file

VALUES = {"expert": {"url": "http://127.0.0.1:8001/v1", "model": "slm", "tokenizer": "models/slm"}}


def read(path: object, **options: Any) -> dict[str, Any]:
    return read_config_file(path, named_by="floe: config_file", **options)


@pytest.mark.parametrize("values", [VALUES, {"floe": VALUES}])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_the_section_may_be_bare_or_named(tmp_path: Path, values: Any, encoding: str) -> None:
    file = tmp_path / "floe.json"
    file.write_text(json.dumps(values), encoding=encoding)
    assert read(str(file)) == VALUES
    config = FloeConfig.from_additional_config({"floe": {"config_file": str(file)}})
    assert config is not None
    assert config.expert.model == "slm"


def test_the_value_of_additional_config_may_have_more_in_it(tmp_path: Path) -> None:
    file = tmp_path / "floe.json"
    file.write_text(json.dumps({"floe": VALUES, "other": 1}))
    assert read(str(file), alone=False) == VALUES
    with pytest.raises(ConfigError, match="where 'other' stands beside 'floe'"):
        read(str(file))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"{", "cannot be read as JSON"),
        (b"", "cannot be read as JSON"),
        (b"[1]", r"which holds \[1\]; accepted is a JSON object"),
        (b'{"floe": null}', "where floe is null; accepted is a JSON object"),
        (b'{"deadline_ms": 5, "deadline_ms": 6}', "where the key 'deadline_ms' stands twice"),
        (b'{"expert": {"url": "a", "url": "b"}}', "where the key 'url' stands twice"),
        ('{"router": "é"}'.encode("latin-1"), r"is not UTF-8 \(byte 12\)"),
        (json.dumps(VALUES).encode("utf-16"), "which is UTF-16; accepted is UTF-8"),
        (b"[" * 100_000, "cannot be read as JSON"),
    ],
)
def test_a_file_that_will_not_do_gets_one_sentence(
    tmp_path: Path, data: bytes, sentence: str
) -> None:
    file = tmp_path / "floe.json"
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=sentence) as caught:
        read(str(file))
    assert f"floe: config_file is '{file}'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_names_no_other_file(tmp_path: Path) -> None:
    file = tmp_path / "floe.json"
    file.write_text(json.dumps({"config_file": "other.json"}))
    with pytest.raises(ConfigError, match="config_file names a file that names another"):
        FloeConfig.from_additional_config({"floe": {"config_file": str(file)}})


def test_relative_paths_count_from_where_the_server_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those in the file too: they are not relative to the file's folder."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "ca.pem").write_text("")
    expert = {**VALUES["expert"], "ca_file": "ca.pem"}
    (tmp_path / "etc" / "floe.json").write_text(json.dumps({"expert": expert}))
    monkeypatch.chdir(tmp_path)
    config = FloeConfig.from_additional_config({"floe": {"config_file": "etc/floe.json"}})
    assert config is not None
    assert config.expert.ca_file == "ca.pem"
    monkeypatch.chdir(tmp_path / "etc")
    with pytest.raises(ConfigError, match=f"{tmp_path}/etc/etc/floe.json: No such file"):
        FloeConfig.from_additional_config({"floe": {"config_file": "etc/floe.json"}})
    with pytest.raises(ConfigError, match=f"looked for as {tmp_path}/etc/ca.pem"):
        FloeConfig.from_additional_config({"floe": {"config_file": "floe.json"}})
