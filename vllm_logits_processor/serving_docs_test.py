"""The pages about serving agree with the code."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from vllm_logits_processor.config import MODES, ExpertConfig, FloeConfig
from vllm_logits_processor.observe import OUTCOMES, StreamSummary, TraceLine, _Instruments
from vllm_logits_processor.request_options import RequestOptions

DOCS = Path(__file__).parent.parent / "docs"
REFERENCE = (DOCS / "reference" / "serving.md").read_text(encoding="utf-8")
HOW_TO = (DOCS / "how-to" / "serve.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Return the cells of all table rows except header rows and rules."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def names(text: str) -> list[str]:
    """Return the names in the first cells of the rows, in order."""
    return [name for row in rows(text) for name in re.findall(r"`([^`]+)`", row[0])]


def test_the_configuration_is_all_there_with_its_defaults() -> None:
    told = {row[0].strip("`"): row[1] for row in rows(section("Configuration"))}
    words = {
        "detectors": "all",
        "tokenizer": "the model",
        "model": "required",
        "expert": "required",
    }
    keys = {**FloeConfig.model_fields, **ExpertConfig.model_fields}
    assert told == {
        name: words.get(name)
        or ("none" if key.default is None else f"`{json.dumps(FloeConfig.written(key.default))}`")
        for name, key in keys.items()
    }


def test_the_request_keys_are_all_there() -> None:
    assert names(section("Requests")) == list(RequestOptions.names())
    assert re.findall(r"`(\w+)`", rows(section("Requests"))[0][1]) == list(MODES)


def test_the_outcomes_are_all_there() -> None:
    assert names(section("Outcomes")) == list(OUTCOMES)
    troubles = names(HOW_TO.partition("## When tokens are not fused")[2])
    assert sorted(troubles) == sorted(set(OUTCOMES) - {"fused"})


def test_the_metrics_are_all_there_with_their_types() -> None:
    families = {
        metric.name: metric.type
        for collected in [_Instruments().registry.collect()]
        for metric in collected
    }
    told = {}
    for name, kind, _ in rows(section("Metrics")):
        base = name.strip("`").partition("{")[0].removesuffix("_total")
        told[base] = {"state": "stateset"}.get(kind, kind)
    assert told == families


def test_the_log_line_is_all_there() -> None:
    keys = list(StreamSummary().as_dict())
    assert names(section("Log line")) == keys
    example = re.search(r"```json\n(.*?)```", section("Log line"), re.DOTALL)
    assert example
    assert list(json.loads(example[1])) == keys


def test_the_trace_is_all_there() -> None:
    assert names(section("Trace file")) == [field.name for field in dataclasses.fields(TraceLine)]


def test_the_configurations_of_the_how_to_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM_API_KEY", "key")
    for name in ("slm.key", "ca.pem"):
        (tmp_path / name).write_text("")
    examples = re.findall(r"```json.*?\n(.*?)```", HOW_TO, re.DOTALL)
    assert len(examples) == 8
    for example in examples:
        assert FloeConfig.from_additional_config({"floe": json.loads(example)}) is not None
