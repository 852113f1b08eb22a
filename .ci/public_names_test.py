"""The dotted paths that users write in programs, configurations and on command lines."""

from __future__ import annotations

import ast
import importlib
from importlib.util import find_spec
from pathlib import Path

import pytest

PATHS = (
    "floe_plugins:hookimpl",
    "floe_plugins.cli:main",
    "floe_plugins.errors:FloeError",
    "floe_plugins.gate:Gate",
    "floe_plugins.gate:decide",
    "floe_plugins.isolation:failures",
    "floe_plugins.middleware:ExpertSessions",
    "floe_plugins.middleware:PrivacyGate",
    "floe_plugins.routers:RouterSignals",
    "floe_plugins.testing:DetectorConformance",
    "floe_plugins.testing:RouterConformance",
    "flower_strategy:FloeStrategy",
    "flower_strategy:adapted_shapes",
    "flower_strategy:lora_config",
    "flower_strategy:peft_mod",
    "flower_strategy.client:train",
    "flower_strategy.client_app:app",
    "flower_strategy.commands.adapter:add_to",
    "flower_strategy.commands.report:add_to",
    "flower_strategy.data:read_examples",
    "flower_strategy.server_app:app",
    "vllm_logits_processor:FloeLogitsProcessor",
    "vllm_logits_processor.commands.align:add_to",
    "vllm_logits_processor.commands.doctor:lines",
)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_users_write_leads_somewhere(path: str) -> None:
    module, _, name = path.partition(":")
    assert getattr(importlib.import_module(module), name) is not None


def test_litellm_finds_the_guardrail() -> None:
    """LiteLLM itself is in another environment, so the module is only read."""
    spec = find_spec("floe_plugins.litellm_guardrail")
    assert spec is not None
    assert spec.origin is not None
    body = ast.parse(Path(spec.origin).read_text("utf-8")).body
    assert "FloeGuardrail" in [node.name for node in body if isinstance(node, ast.ClassDef)]
