from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from floe_plugins.errors import ConfigError
from flower_strategy.adapters.adapter import AdapterState, initial_adapter
from flower_strategy.adapters.mean import AdapterMean
from flower_strategy.adapters.modules import AdaptedModules
from flower_strategy.adapters.peft_folder import save_adapter
from flower_strategy.config import RunConfig
from flower_strategy.data.examples import Example
from flower_strategy.device.base_model import (
    BaseModel,
    BaseModelError,
    adapted,
    adapted_modules,
    layer_shapes,
    load_base_model,
)
from flower_strategy.device.model_checks import empty_model
from flower_strategy.device.target_modules import LINEAR, find_modules
from flower_strategy.device.training import train_adapter
from flower_strategy.settings import TrainingSettings
from flower_strategy.testing.architectures import ARCHITECTURES, BY_KIND, write_checkpoint

EXAMPLES = [Example(f"say {word}:", f" {word} {word}") for word in ("ab", "cd", "ef", "gh")]
KINDS = [each.kind for each in ARCHITECTURES]
ALL = ("all-linear",)


def empty(kind: str, **changes: Any) -> Any:
    config = AutoConfig.for_model(kind, **{**BY_KIND[kind].tiny, **changes})
    return empty_model(kind, config)


def found(kind: str, *targets: str, **changes: Any) -> AdaptedModules:
    return find_modules(empty(kind, **changes), targets or ALL, name=kind)


def reasons(modules: AdaptedModules) -> dict[str, str]:
    return {group.name: group.reason for group in modules.others}


@pytest.mark.parametrize("kind", KINDS)
def test_every_linear_layer_of_the_language_model_carries_factors(kind: str) -> None:
    model = empty(kind)
    decoder = next(path for path, each in model.named_modules() if each is model.get_decoder())
    linear = [path for path, each in model.named_modules() if isinstance(each, LINEAR)]
    modules = found(kind)
    assert list(modules.shapes) == [path for path in linear if path.startswith(f"{decoder}.")]
    assert set(modules.names) == set(BY_KIND[kind].names.split())
    assert {group.count for group in modules.groups} == {2}
    assert 0.05 < modules.share < 1
    assert modules.transposed is (kind == "gpt2")
    assert modules.architecture == type(model).__name__
    assert modules.weights == sum(weight.numel() for weight in model.parameters())


def test_what_carries_none_is_said_with_the_reason() -> None:
    said = reasons(found("llama"))
    assert said["lm_head"].startswith("the output layer")
    assert said["model.embed_tokens"].startswith("an embedding")
    said = reasons(found("gemma3"))
    assert said["model.vision_tower"] == said["model.multi_modal_projector"]
    assert said["model.vision_tower"] == "not a part that text reaches"
    mixture = found("mixtral")
    said = reasons(mixture)
    assert said["model.layers.*.mlp.experts"].startswith("one tensor with a matrix for each")
    assert "no linear layer" in said["model.layers.*.mlp.gate"]
    experts = next(group for group in mixture.others if group.name.endswith("experts"))
    assert experts.count == 2
    assert experts.weights == 2 * 4 * 3 * 64 * 96
    # PEFT would put factors for the experts where these are named.
    said = reasons(found("qwen3_moe", mlp_only_layers=[0]))
    assert said["model.layers.*.mlp.down_proj"].startswith("a layer whose name PEFT takes")


def test_shapes_are_those_of_the_update_however_a_layer_stores_its_weight() -> None:
    shapes = found("gpt2").shapes
    assert shapes["transformer.h.0.attn.c_attn"] == (192, 64)
    assert shapes["transformer.h.1.mlp.c_proj"] == (64, 256)
    assert found("phi3").shapes["model.layers.0.self_attn.qkv_proj"] == (128, 64)


def test_modules_are_named_by_the_ends_of_their_names() -> None:
    modules = found("llama", "q_proj", "mlp.down_proj")
    assert modules.names == ("q_proj", "down_proj")
    assert modules.targets == ("down_proj", "q_proj")
    assert len(modules.shapes) == 4
    assert reasons(modules)["model.layers.*.self_attn.k_proj"] == "not among target-modules"
    one = found("llama", "layers.1.self_attn.v_proj")
    assert one.targets == ("model.layers.1.self_attn.v_proj",)
    assert "lm_head" in found("llama", "q_proj", "lm_head").shapes
    # The vision tower has modules of the same names.
    seen = found("gemma3", "q_proj")
    assert seen.targets == tuple(sorted(seen.shapes))
    assert all("language_model" in target for target in seen.targets)


@pytest.mark.parametrize(
    ("kind", "target", "why"),
    [
        (
            "llama",
            "c_attn",
            "no module is called so; accepted are all-linear or names among q_proj",
        ),
        ("llama", "roj", "no module is called so"),
        (
            "llama",
            "embed_tokens",
            "model.embed_tokens carries no factors, since it is an embedding",
        ),
        ("gemma3", "fc1", "since it is not a part that text reaches"),
        ("mixtral", "experts", "since it is one tensor with a matrix for each expert"),
        ("llama", "input_layernorm", r"since it is no linear layer \(LlamaRMSNorm\)"),
    ],
)
def test_names_of_what_cannot_carry_factors_are_refused(kind: str, target: str, why: str) -> None:
    with pytest.raises(ConfigError, match=rf"target-modules={target} is not accepted.*{why}"):
        found(kind, "q_proj", target)


def test_names_that_peft_takes_for_the_experts_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="gate_proj carries no factors, since it is a layer whose"
    ):
        found("qwen3_moe", "gate_proj", "up_proj", "down_proj", mlp_only_layers=[0])
    with pytest.raises(ConfigError, match="PEFT cannot adapt target-modules=gate_proj of model"):
        found("qwen3_moe", "gate_proj", mlp_only_layers=[0])


def test_the_key_takes_all_linear_or_names() -> None:
    assert RunConfig().target_modules == ALL
    assert RunConfig.from_dict({"target-modules": "ALL-linear"}).target_modules == ALL
    named = RunConfig.from_dict({"target-modules": "q_proj, v_proj"})
    assert named.target_modules == ("q_proj", "v_proj")
    settings = TrainingSettings.from_config(named)
    assert TrainingSettings.from_record(settings.to_record()) == settings
    for wrong in ("", "all-linear,q_proj", "q_proj;v_proj", ".*_proj"):
        with pytest.raises(ConfigError, match=r"target-modules=.*all-linear, or names of modules"):
            RunConfig.from_dict({"target-modules": wrong})


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(BaseModelError, match="no linear layer that PEFT could adapt"):
        found("gpt2", n_layer=0)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found = model(input_ids=torch.arange(1, 25, device=model.device)[None]).logits
        answer: torch.Tensor = found.cpu()
        return answer


def merged(base: BaseModel, delta: AdapterState) -> torch.Tensor:
    """Return the logits with an adapter's change added to the weights by hand."""
    moved = {}
    for path in delta.layers:
        weight = base.model.get_submodule(path).weight
        moved[path] = weight.detach().clone()
        change = torch.from_numpy(delta.delta(path)).to(weight)
        weight.data += change.T if isinstance(base.model.get_submodule(path), Conv1D) else change
    try:
        return logits(base.model)
    finally:
        for path, weight in moved.items():
            base.model.get_submodule(path).weight.data = weight


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_moves_all_and_peft_loads_the_mean_of_two_ranks(kind: str, tmp_path: Path) -> None:
    folder = write_checkpoint(kind, tmp_path / "base")
    base = load_base_model(folder)
    settings = TrainingSettings(
        model=folder, local_steps=1, batch_size=2, learning_rate=0.05, max_length=32
    )
    modules = adapted_modules(folder)
    assert layer_shapes(base) == modules.shapes
    plain = logits(base.model)
    trained = []
    for rank in (2, 3):
        start = initial_adapter(modules.shapes, rank=rank, seed=rank)
        outcome = train_adapter(base, start, EXAMPLES, settings, order_seed=(rank,))
        assert outcome.adapter.layers.keys() == modules.shapes.keys()
        assert all(factors.b.any() for factors in outcome.adapter.layers.values())
        with adapted(base, outcome.adapter) as model:
            answer = logits(model)
        assert torch.allclose(answer, merged(base, outcome.adapter), atol=1e-4)
        trained.append(outcome.adapter)
    mean = AdapterMean(modules.shapes)
    for adapter in trained:
        mean.add(adapter, weight=1.0)
    served = mean.result(8).adapter
    for path in modules.shapes:
        expected = (trained[0].delta(path) + trained[1].delta(path)) / 2
        np.testing.assert_allclose(served.delta(path), expected, atol=1e-5)
    save_adapter(served, tmp_path / "adapter", rank=8, base_model=folder, modules=modules)
    fresh = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        loaded = PeftModel.from_pretrained(fresh, str(tmp_path / "adapter")).eval()
    answer = logits(loaded)
    assert torch.allclose(answer, merged(base, served), atol=1e-4)
    assert (answer - plain).abs().max() > 1e-2


def test_an_adapter_for_another_model_is_refused(tmp_path: Path) -> None:
    base = load_base_model(write_checkpoint("gpt2", tmp_path))
    foreign = initial_adapter(found("llama").shapes, rank=2, seed=0)
    with (
        pytest.raises(BaseModelError, match=r"q_proj, which model .* does not have"),
        adapted(base, foreign),
    ):
        pass
