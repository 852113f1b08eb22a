from __future__ import annotations

import json
from typing import Any

import pytest

from flower_strategy.adapters.modules import EXPERTS, AdaptedModules, ModuleGroup
from flower_strategy.adapters.vllm_support import REFUSES, RELEASE, TAKES, vllm_support
from flower_strategy.server.log import module_lines


def modules(**changes: Any) -> AdaptedModules:
    """Return two layers of which a projection each carries factors."""
    values: dict[str, Any] = {
        "architecture": "LlamaForCausalLM",
        "shapes": {"layers.0.q_proj": (6, 4), "layers.1.q_proj": (6, 4)},
        "groups": (ModuleGroup(name="layers.*.q_proj", count=2, weights=48),),
        "others": (
            ModuleGroup(name="embed", count=1, weights=40, reason="an embedding"),
            ModuleGroup(name="layers.*.k_proj", count=2, weights=48, reason="not named"),
            ModuleGroup(name="layers.*.v_proj", count=2, weights=48, reason="not named"),
        ),
        "weights": 192,
        "targets": ("q_proj",),
    }
    return AdaptedModules(**{**values, **changes})


def test_modules_say_what_they_hold() -> None:
    found = modules()
    assert found.share == 0.25
    assert found.names == ("q_proj",)
    assert found.trained(3) == 3 * 2 * (6 + 4)
    assert [len(groups) for groups in found.left_out().values()] == [1, 2]
    said = json.loads(json.dumps(found.to_json()))
    assert said["with_factors"] == [{"name": "layers.*.q_proj", "count": 2, "weights": 48}]
    assert {group["reason"] for group in said["without_factors"]} == {"an embedding", "not named"}


def test_the_log_has_a_line_for_each_reason() -> None:
    assert module_lines(modules()) == [
        "With factors: q_proj (2 modules, 25.0% of 192 weights)",
        "Trained: 20 numbers per rank; the base model stays as it is",
        "Without (20.8%): embed: an embedding",
        "Without (50.0%): layers.*.k_proj, layers.*.v_proj: not named",
        f"vLLM {RELEASE} serves the adapters with --enable-lora (LlamaForCausalLM).",
    ]
    (line,) = module_lines(None)
    assert "which the caller has made" in line


@pytest.mark.parametrize(
    ("architecture", "takes", "said"),
    [
        ("Phi3ForCausalLM", True, "serves the adapters with --enable-lora"),
        ("GPT2LMHeadModel", False, "merge the exported one into the base model"),
        ("NonesuchForCausalLM", None, "is not known"),
    ],
)
def test_vllm_is_known_by_architecture(architecture: str, takes: bool | None, said: str) -> None:
    found = vllm_support(modules(architecture=architecture))
    assert found.takes is takes
    assert said in found.says
    assert architecture in found.says
    assert found.to_json()["release"] == RELEASE


def test_adapters_of_a_mixture_are_served_on_gpus() -> None:
    experts = ModuleGroup(name="layers.*.experts", count=2, weights=8, reason=EXPERTS)
    found = modules(architecture="MixtralForCausalLM", others=(experts,))
    assert found.is_mixture
    assert "on GPUs alone" in vllm_support(found).says
    assert not modules().is_mixture


def test_no_architecture_is_both_taken_and_refused() -> None:
    assert not TAKES & REFUSES
