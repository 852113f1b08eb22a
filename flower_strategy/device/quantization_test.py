import importlib.util
from typing import Any

import pytest
import torch

from floe_plugins.errors import ConfigError
from flower_strategy.adapters.adapter import initial_adapter
from flower_strategy.data.examples import Example
from flower_strategy.device.base_model import layer_shapes, load_base_model
from flower_strategy.device.quantization import quantization_config
from flower_strategy.device.training import train_adapter
from flower_strategy.settings import TrainingSettings


def test_nothing_is_quantised_by_default() -> None:
    assert quantization_config("none", "float32") is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("kind", ["4bit", "8bit"])
def test_a_cpu_is_refused_in_a_sentence(tiny_model: str, kind: str) -> None:
    said = f"quantization='{kind}' needs a CUDA GPU, and torch finds none here"
    with pytest.raises(ConfigError, match=said):
        load_base_model(tiny_model, "float32", kind)


def test_a_missing_bitsandbytes_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    # What a machine with a GPU and without the extra has.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("flower_strategy.device.quantization.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs bitsandbytes, .* pip install .*quantization"):
        quantization_config("4bit", "float32")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
@pytest.mark.parametrize("kind", ["4bit", "8bit"])
def test_a_quantised_model_is_trained(
    tiny_model: str, settings: TrainingSettings, kind: Any
) -> None:
    plain = load_base_model(tiny_model)
    whole, shapes = plain.weight_bytes, layer_shapes(plain)
    base = load_base_model(tiny_model, "float32", kind)
    assert base.weight_bytes < whole
    assert layer_shapes(base) == shapes
    start = initial_adapter(shapes, rank=4, seed=0)
    examples = [Example("say ab:", " ab ab"), Example("say cd:", " cd cd")]
    longer = settings.changed(quantization=kind, local_steps=20)
    first = train_adapter(base, start, examples, settings.changed(quantization=kind)).loss
    assert train_adapter(base, start, examples, longer).loss < first
