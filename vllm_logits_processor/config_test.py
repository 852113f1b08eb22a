from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from floe_plugins.errors import ConfigError
from vllm_logits_processor.config import ExpertConfig, FloeConfig, why_off
from vllm_logits_processor.request_options import RequestOptions

EXPERT: dict[str, Any] = {
    "url": "http://127.0.0.1:8001/v1",
    "model": "slm",
    "tokenizer": "embedded:smollm2",
}


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
        (
            {"expert": {**EXPERT, "lookahead": 4, "context": 4}},
            "expert.context is 4; accepted is an integer from 5",
        ),
        (
            {"expert": {**EXPERT, "api": "ollama"}},
            "expert.api is 'ollama'; accepted is auto, vllm, llama.cpp, openai-completions",
        ),
        (
            {"expert": {**EXPERT, "tokenizer": "unknown"}},
            "expert.tokenizer is 'unknown'; accepted is .* with .* expert.api 'openai-completions'",
        ),
        ({"expert": {"model": "m", "tokenizer": "unknown"}}, "expert.tokenizer is 'unknown'; acc"),
        ({"expert": {**EXPERT, "trusted": "yes"}}, "expert.trusted is 'yes'; accepted is true or"),
        ({"expert": {**EXPERT, "api_key_env": "NO_SUCH_KEY"}}, "that is set"),
        (
            {"expert": {"url": "http://x", "model": "m"}},
            "expert.tokenizer is missing, and a server",
        ),
        ({"expert": {"url": [], "model": "m"}}, "an http:// or https:// URL, or a list of them"),
        ({"expert": {"url": ["http://x", "x"], "model": "m"}}, "or a list of them"),
        (
            {"expert": {"url": ["http://x", 3], "model": "m"}},
            r"expert.url is .*; accepted is a string or a list of strings",
        ),
        ({"expert": {}}, "expert.model is missing"),
        ({"expert": {**EXPERT, "lookahead": 65}}, "expert.lookahead is 65; accepted is an integer"),
        ({"expert": {**EXPERT, "hedge_ms": 20}}, "expert.hedge_ms is 20; .*, with two URLs"),
        ({"expert": {**EXPERT, "ca_file": "/no/such.pem"}}, "the path of a file that is there"),
        ({"expert": {**EXPERT, "api_key_file": "/no"}}, "the path of a file that is there"),
        ({"expert": {"model": "m", "dtype": "half"}}, "auto, bfloat16, float32"),
        ({"expert": {"model": "m", "device": "GPU 0"}}, "a device of torch's, as cuda:0"),
        ({"ask": "never"}, "ask is 'never'; accepted is always, unsure, margin"),
        ({"unsure_margin": 1}, "unsure_margin is 1; accepted is a number above 0, below 1"),
        ({"unsure_nats": -1}, "unsure_nats is -1; accepted is a number above 0"),
        ({"covers": 17}, "covers is 17; accepted is an integer from 0 to 16"),
        ({"answer_budget_ms": 0}, "answer_budget_ms is 0; accepted is a number above 0"),
        ({"metrics_port": 0}, "metrics_port is 0; accepted is an integer from 1 to 65535"),
        ({"host_url": "me"}, "host_url is 'me'; accepted is an http"),
        ({"host_api_key_env": "NO_SUCH_KEY"}, "host_api_key_env is 'NO_SUCH_KEY'"),
        ({"expert": {**EXPERT, "topk": 5}}, "expert.topk is not a setting; did you mean 'top_k'"),
        ({"deadline": 5}, "deadline is not a setting; did you mean 'deadline_ms'"),
        ({"deadline_ms": 0}, "deadline_ms is 0; accepted is a number above 0"),
        ({"deadline_ms": "fast"}, "deadline_ms is 'fast'"),
        ({"deadline_ms": math.inf}, "deadline_ms is inf; accepted is a number above 0, up to 86,4"),
        ({"first_deadline_ms": 1e300}, r"first_deadline_ms is 1e\+300; .*, up to 86,400,000"),
        ({"deadline_ms": 10**400}, "deadline_ms is 10000.*, up to 86,400,000"),
        ({"unsure_nats": math.nan}, "unsure_nats is nan; accepted is a number above 0"),
        ({"expert": {**EXPERT, "url": "http://host:99999/v1"}}, "'http://host:99999/v1'; accepted"),
        ({"expert": {**EXPERT, "url": "http://"}}, "expert.url is 'http://'; accepted is an http"),
        ({"host_url": "http://[::1/v1"}, r"host_url is 'http://\[::1/v1'; accepted is an http"),
        ({"default_mode": "auto"}, "default_mode is 'auto'; accepted is host or fused"),
        ({"breaker_failures": 1.5}, "breaker_failures is 1.5; accepted is an integer"),
        ({"detectors": "email"}, "detectors is 'email'; accepted is a list of names"),
        ({"trace_file": "/no/such/folder/trace"}, "trace_file is '/no/such/folder/trace'"),
        ({"config_file": "/no/such/file"}, "config_file is '/no/such/file', which cannot be read"),
        ({"config_file": 3}, "config_file is 3; accepted is the path of a JSON file"),
        ({"config_file": ""}, "config_file is ''; accepted is the path of a JSON file"),
        ({"plugins": None}, "plugins is None; accepted is a list of names"),
        ({"router": ["mean"]}, r"router is .'mean'.; accepted is a router's name"),
        ({"expert": "http://x/v1"}, "expert is 'http://x/v1'; accepted is a JSON object"),
        ({"expert": {**EXPERT, "tokenizer": 3}}, "expert.tokenizer is 3; accepted is a folder"),
        (
            {"expert": {**EXPERT, "url": ["http://a/v1", "http://a/v1/"]}},
            "expert.url names 'http://a/v1' more than once",
        ),
        ({"url": "http://x/v1"}, "url belongs in the section 'expert', not beside it"),
        ({"trusted": True, "top_k": 5}, "trusted, top_k belong in the section 'expert'"),
        (
            {"expert": {**EXPERT, "deadline_ms": 5}},
            "deadline_ms belongs beside the section 'expert', not in it",
        ),
        (
            {"expert": {**EXPERT, "config_file": "x"}},
            "config_file belongs beside the section 'expert'",
        ),
    ],
)
def test_wrong_values_get_one_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        read(**values)
    assert "\n" not in str(caught.value)


def test_a_section_with_another_name_is_not_the_expert() -> None:
    with pytest.raises(ConfigError, match="Expert is not a setting; did you mean 'expert'"):
        FloeConfig.from_additional_config({"floe": {"Expert": EXPERT}})


def test_an_expert_section_at_the_top_is_refused_with_where_it_belongs() -> None:
    with pytest.raises(ConfigError, match="url, model, tokenizer belong in the section 'expert'"):
        FloeConfig.from_additional_config({"floe": EXPERT})


@pytest.mark.parametrize("value", [[], "on", 3, False])
def test_a_section_that_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"floe: the configuration is .*; accepted is a JSON obj"):
        FloeConfig.from_additional_config({"floe": value})


@pytest.mark.parametrize(
    ("additional", "sentence"),
    [
        (None, "vLLM was started without --additional-config; start vLLM with"),
        ({}, "vLLM was started without --additional-config"),
        ({"floe": None}, "the section floe of --additional-config is null; start vLLM with"),
        ({"Floe": {}}, "has the key 'Floe'; did you mean 'floe'?"),
        ({"floee": {}}, "has the key 'floee'; did you mean 'floe'?"),
        ({"other": 1}, "--additional-config has no section floe; start vLLM with"),
        ({"expert": EXPERT, "router": "mean"}, "has 'expert', 'router' at its top level; put"),
        ({"config_file": "floe.json"}, "has 'config_file' at its top level"),
    ],
)
def test_what_keeps_fusion_off_is_named(additional: Any, sentence: str) -> None:
    assert FloeConfig.from_additional_config(additional) is None
    assert sentence in why_off(additional)


def test_the_expert_is_required() -> None:
    with pytest.raises(ConfigError, match=r"'expert' \(model, url, tokenizer\) is missing"):
        FloeConfig.from_additional_config({"floe": {}})


def test_without_a_url_the_model_is_in_process_and_sees_everything() -> None:
    config = read(expert={"model": "embedded:smollm2-135m-instruct"})
    assert config is not None
    assert config.expert.urls == ()
    assert config.expert.tokenizer_reference == "embedded:smollm2-135m-instruct"
    assert config.expert.sees_everything
    assert not ExpertConfig(**EXPERT).sees_everything


def test_a_tokenizer_may_be_unknown_where_tokens_are_spelled() -> None:
    config = read(expert={**EXPERT, "tokenizer": "unknown", "api": "openai-completions"})
    assert config is not None
    assert not config.expert.knows_tokenizer
    assert ExpertConfig(**EXPERT).knows_tokenizer


def test_several_urls_are_one_expert() -> None:
    config = read(expert={**EXPERT, "url": ["http://a/v1", "http://b/v1"], "hedge_ms": 20})
    assert config is not None
    assert config.expert.urls == ("http://a/v1", "http://b/v1")


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
    assert config.expert.api_key().headers() == [(b"Authorization", b"Bearer open-sesame")]
    assert "open-sesame" not in repr(config)


def test_nothing_said_is_auto() -> None:
    assert RequestOptions.from_extra_args(None) == RequestOptions()
    assert RequestOptions.from_extra_args({"other_plugin": 7}).mode == "auto"


def test_all_keys_are_read() -> None:
    options = RequestOptions.from_extra_args(
        {"floe": "host", "floe_expert_model": "cluster-0", "floe_label": "a"}
    )
    assert options == RequestOptions(mode="host", expert_model="cluster-0", label="a")


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ({"floe": "yes"}, r"floe is 'yes'; accepted is auto, host, fused"),
        ({"floe": 1}, r"floe is 1; accepted"),
        ({"floe": ["host"]}, r"floe is \['host'\]; accepted"),
        ({"floe_expert_model": ""}, "1 to 256 characters"),
        ({"floe_label": "x" * 257}, "1 to 256 characters"),
        ({"floe_verdict": "clear"}, "floe_verdict is not known; accepted are floe"),
    ],
)
def test_wrong_values_are_value_errors(extra: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        RequestOptions.from_extra_args(extra)
