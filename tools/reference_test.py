from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from floe_plugins.errors import ConfigError
from floe_plugins.gate.settings import GateSettings
from flower_strategy.config import RunConfig
from tools import reference
from vllm_logits_processor.config import FloeConfig

SCHEMAS = {
    "gate": GateSettings.json_schema(),
    "run": RunConfig.json_schema(),
    "serving": FloeConfig.json_schema(),
}
EXPERT = {"model": "slm", "url": "http://127.0.0.1:8001/v1", "tokenizer": "models/slm"}


@pytest.mark.parametrize("file", reference.written(), ids=lambda file: file.name)
def test_what_is_committed_is_what_the_keys_say(file: Path) -> None:
    assert file.read_text("utf-8") == reference.written()[file]


def test_a_page_without_its_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no block 'gate'"):
        reference.page("# The gate\n", ("gate",))
    with pytest.raises(ValueError, match=r"there is no \[tool.flwr.app.config\]"):
        reference.pyproject("[project]\n")


def test_what_stands_after_the_table_of_the_project_stays() -> None:
    text = reference.pyproject("[tool.flwr.app.config]\nold = 1\n\n[tool.other]\nkey = 1\n")
    assert "old" not in text
    assert text.endswith("\n\n[tool.other]\nkey = 1\n")


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_of_the_standard_and_explain_every_key(name: str) -> None:
    schema = SCHEMAS[name]
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator.check_schema(schema)
    section = schema["$defs"]["FloeConfig"] if name == "serving" else schema
    for key, said in section["properties"].items():
        assert key == "$schema" or len(said["description"]) > 15, key
    assert "](" not in json.dumps(schema)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("serving", {"expert": EXPERT}),
        ("serving", {"floe": {"expert": {**EXPERT, "url": ["http://a/v1", "http://b/v1"]}}}),
        ("serving", {"$schema": "floe.schema.json", "expert": EXPERT, "detectors": ["email"]}),
        ("run", RunConfig.defaults()),
        ("run", {"ranks": 8, "export-rank": 16, "alpha": 1}),
        ("gate", {"$schema": "gate.schema.json", "policy": "labels", "actions": {"*": "local"}}),
        ("gate", {"cloud": {"url": "https://h/v1"}, "detectors": None}),
    ],
)
def test_a_schema_takes_what_the_model_takes(name: str, values: dict[str, Any]) -> None:
    Draft202012Validator(SCHEMAS[name]).validate(values)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("serving", {}),
        ("serving", {"expert": {**EXPERT, "top_k": 0}}),
        ("serving", {"expert": {**EXPERT, "topk": 1}}),
        ("serving", {"floe": {"expert": EXPERT, "deadline_ms": "fast"}}),
        ("run", {"max_examples": 3}),
        ("run", {"rounds": 0}),
        ("run", {"tasks": ""}),
        ("run", {"export-rank": 12}),
        ("gate", {"policy": "lenient"}),
        ("gate", {"timeout_s": 61}),
        ("gate", {"plugins": [1]}),
        ("gate", {"cloud": {"url": "https://h/v1", "modle": "llm"}}),
    ],
)
def test_a_schema_refuses_what_the_model_refuses(name: str, values: dict[str, Any]) -> None:
    assert not Draft202012Validator(SCHEMAS[name]).is_valid(values)


def test_no_secret_is_in_an_error() -> None:
    secret = "sk-live-0123456789abcdef"
    for expert in (
        {**EXPERT, "api_key_env": secret},
        {**EXPERT, "api_key": secret},
        {**EXPERT, "url": f"http://me:{secret}@host:0/v1"},
    ):
        with pytest.raises(ConfigError) as caught:
            FloeConfig.from_additional_config({"floe": {"expert": expert}})
        assert secret not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


def test_the_pages_link_to_places_that_are_there() -> None:
    for name, marks in reference.PAGES.items():
        for mark in marks:
            for link in re.findall(r"\]\(([^)#]+\.md)", reference.TABLES[mark]):
                assert (reference.ROOT / name).parent.joinpath(link).is_file(), link
