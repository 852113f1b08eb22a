from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from floe_plugins.errors import ConfigError
from vllm_logits_processor.config import FloeConfig

EXPERT = {"url": "http://127.0.0.1:8001/v1", "model": "slm", "tokenizer": "embedded:smollm2"}


def read(**values: Any) -> FloeConfig | None:
    return FloeConfig.from_additional_config({"floe": {"expert": EXPERT, **values}})


def test_without_the_section_there_is_no_configuration() -> None:
    assert FloeConfig.from_additional_config(None) is None
    assert FloeConfig.from_additional_config({"other": 1}) is None


def test_defaults_are_the_documented_ones() -> None:
    config = read()
    assert config is not None
    assert (config.router, config.default_mode, config.deadline_ms) == ("evidence", "fused", 250.0)
    assert config.expert.trusted is False
    assert config.expert.top_k == 20


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"expert": 3}, "expert is 3; accepted is a JSON object"),
        ({"expert": {**EXPERT, "url": "ftp://x"}}, "expert.url is 'ftp://x'; accepted is an http"),
        ({"expert": {**EXPERT, "top_k": 0}}, "expert.top_k is 0; accepted is an integer from 1"),
        ({"expert": {**EXPERT, "top_k": True}}, "expert.top_k is True"),
        ({"expert": {**EXPERT, "trusted": "yes"}}, "expert.trusted is 'yes'; accepted is true or"),
        ({"expert": {**EXPERT, "api_key_env": "NO_SUCH_KEY"}}, "that is set"),
        ({"expert": {"url": "http://x", "model": "m"}}, "expert.tokenizer is missing"),
        ({"expert": {**EXPERT, "topk": 5}}, "expert.topk is not a setting; did you mean 'top_k'"),
        ({"deadline": 5}, "deadline is not a setting; did you mean 'deadline_ms'"),
        ({"deadline_ms": 0}, "deadline_ms is 0; accepted is a number above 0"),
        ({"deadline_ms": "fast"}, "deadline_ms is 'fast'"),
        ({"default_mode": "auto"}, "default_mode is 'auto'; accepted is host or fused"),
        ({"breaker_failures": 1.5}, "breaker_failures is 1.5; accepted is an integer"),
        ({"detectors": "email"}, "detectors is 'email'; accepted is a list of names"),
        ({"trace_file": "/no/such/folder/trace"}, "trace_file is '/no/such/folder/trace'"),
        ({"config_file": "/no/such/file"}, "config_file is '/no/such/file', which cannot be read"),
    ],
)
def test_wrong_values_get_one_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        read(**values)
    assert "\n" not in str(caught.value)


def test_the_expert_is_required() -> None:
    with pytest.raises(ConfigError, match=r"'expert' \(url, model, tokenizer\) is missing"):
        FloeConfig.from_additional_config({"floe": {}})


def test_the_file_completes_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "floe.json"
    file.write_text(json.dumps({"expert": {"url": EXPERT["url"]}, "deadline_ms": 40}))
    inline = {"expert": {"model": "slm", "tokenizer": "t"}, "config_file": str(file)}
    config = FloeConfig.from_additional_config({"floe": inline})
    assert config is not None
    assert config.expert.url == EXPERT["url"]
    assert config.deadline_ms == 40


def test_a_key_in_both_places_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "floe.json"
    file.write_text(json.dumps({"deadline_ms": 40}))
    with pytest.raises(
        ConfigError, match="deadline_ms stands on the command line and in config_file"
    ):
        read(deadline_ms=50, config_file=str(file))


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOE_TEST_KEY", "open-sesame")
    config = read(expert={**EXPERT, "api_key_env": "FLOE_TEST_KEY"})
    assert config is not None
    assert config.expert.api_key == "open-sesame"
    assert "open-sesame" not in repr(config)
