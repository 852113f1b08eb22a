import pytest
import torch

from floe_plugins.errors import ConfigError
from flower_strategy.adapters.adapter import initial_adapter
from flower_strategy.data.examples import Example
from flower_strategy.device.base_model import BaseModel, layer_shapes
from flower_strategy.device.encoding import Encoder
from flower_strategy.device.loss import collate, held_out_loss, response_loss
from flower_strategy.settings import TrainingSettings

EXAMPLES = [Example(f"say {word}:", f" {word} {word}") for word in ("ab", "cd", "ef", "gh")]


def test_the_loss_is_that_of_the_response_alone(tiny_base: BaseModel) -> None:
    examples = [Example("some prompt", " reply"), Example("p", " r")]
    settings = TrainingSettings(model="tiny", max_length=48)
    batch = collate(examples, tiny_base, settings)
    total = response_loss(tiny_base.model, batch)
    expected, tokens = 0.0, 0
    encoder = Encoder(tiny_base.tokenizer, max_length=48)
    for example in examples:
        encoded = encoder.encode(example)
        logits = tiny_base.model(torch.tensor([encoded.ids])).logits[0].float()
        logprobs = torch.log_softmax(logits, dim=-1)
        for position, token in enumerate(encoded.ids):
            if encoded.learned[position]:
                expected -= float(logprobs[position - 1, token])
                tokens += 1
    assert batch.num_targets == tokens
    assert float(total) == pytest.approx(expected, rel=1e-4)


def test_eval_examples_limits_what_is_measured(
    tiny_base: BaseModel, settings: TrainingSettings
) -> None:
    adapter = initial_adapter(layer_shapes(tiny_base), rank=4, seed=0)
    limited = TrainingSettings(**{**vars(settings), "eval_examples": 1})
    _, tokens = held_out_loss(tiny_base, adapter, EXAMPLES, limited)
    assert tokens == len(EXAMPLES[0].response) + 1


def test_a_device_that_holds_out_nothing_cannot_measure(
    tiny_base: BaseModel, settings: TrainingSettings
) -> None:
    adapter = initial_adapter(layer_shapes(tiny_base), rank=4, seed=0)
    with pytest.raises(ConfigError, match="holds out 0 examples, and 1 is needed"):
        held_out_loss(tiny_base, adapter, [], settings)
