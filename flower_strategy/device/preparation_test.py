import pytest

from floe_plugins.errors import ConfigError
from flower_strategy.adapters.adapter import initial_adapter
from flower_strategy.data.examples import Example
from flower_strategy.device.base_model import BaseModel, layer_shapes
from flower_strategy.device.preparation import check_training, trainable
from flower_strategy.settings import TrainingSettings


def test_a_model_without_checkpointing_is_refused_where_it_is_asked_for(
    tiny_base: BaseModel, settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(tiny_base.model), "supports_gradient_checkpointing", False)
    examples = [Example("a", "b")]
    check_training(tiny_base, examples, settings)
    with pytest.raises(ConfigError, match="=true is not accepted: LlamaForCausalLM does not"):
        check_training(tiny_base, examples, settings.changed(gradient_checkpointing=True))


def test_the_base_model_is_as_before_also_after_a_failure(
    tiny_base: BaseModel, settings: TrainingSettings
) -> None:
    adapter = initial_adapter(layer_shapes(tiny_base), rank=2, seed=0)
    how = settings.changed(gradient_checkpointing=True, lora_dropout=0.1)

    def fails() -> None:
        with trainable(tiny_base, adapter, how, seed=(0,)) as training:
            assert training.model.training
            assert tiny_base.model.is_gradient_checkpointing
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert not any(module.training for module in tiny_base.model.modules())
    assert not tiny_base.model.is_gradient_checkpointing
    assert not any(weight.requires_grad for weight in tiny_base.model.parameters())
