import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from floe_plugins.errors import ConfigError
from flower_strategy.adapters.adapter import initial_adapter
from flower_strategy.data.examples import Example
from flower_strategy.device.base_model import BaseModel, layer_shapes
from flower_strategy.device.encoding import Encoder
from flower_strategy.device.loss import (
    Batch,
    ExampleLosses,
    collate,
    example_losses,
    held_out_loss,
    response_loss,
)
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


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("cohere", {"logit_scale": 0.0625}),
        ("granite", {"logits_scaling": 8.0}),
        ("gemma2", {"final_logit_softcapping": 0.05, "head_dim": 32}),
    ],
)
def test_the_loss_has_the_model_s_own_scaling_and_caps(kind: str, values: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        **{"vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0},
        **{"initializer_range": 0.5, **values},
    )
    factory: Any = AutoModelForCausalLM
    model = factory.from_config(config).eval()
    ids = torch.arange(1, 13).reshape(2, 6)
    targets = ids[:, 1:].clone()
    targets[0, :3] = -100
    batch = Batch(ids, torch.ones_like(ids), targets, int((targets != -100).sum()))
    model.requires_grad_(False)
    logits = model(input_ids=ids).logits[:, :-1][targets != -100]
    expected = functional.cross_entropy(logits, targets[targets != -100], reduction="sum")
    assert float(response_loss(model, batch)) == pytest.approx(float(expected), rel=1e-5)
    # transformers' own loss of each example, a mean over its response.
    labels = torch.cat([torch.full((2, 1), -100), targets], dim=1)
    for row in range(2):
        of_row = slice(row, row + 1)
        count = int((targets[of_row] != -100).sum())
        one = Batch(ids[of_row], torch.ones_like(ids[of_row]), targets[of_row], count)
        own = model(input_ids=ids[of_row], labels=labels[of_row]).loss
        assert float(response_loss(model, one)) / count == pytest.approx(float(own), rel=1e-5)
    # What the bare head gives is another loss: the test would see one that leaves the rest out.
    hidden = model.get_decoder()(input_ids=ids).last_hidden_state[:, :-1][targets != -100]
    bare = model.get_output_embeddings()(hidden)
    plain = functional.cross_entropy(bare, targets[targets != -100], reduction="sum")
    assert abs(float(plain) - float(expected)) > 0.05 * float(expected)


def test_eval_examples_limits_what_is_measured(
    tiny_base: BaseModel, settings: TrainingSettings
) -> None:
    adapter = initial_adapter(layer_shapes(tiny_base), rank=4, seed=0)
    limited = TrainingSettings(**{**vars(settings), "eval_examples": 1})
    _, tokens = held_out_loss(tiny_base, adapter, EXAMPLES, limited)
    assert tokens == len(EXAMPLES[0].response) + 1


def test_losses_of_examples_add_up_to_the_mean_and_do_not_depend_on_the_batch(
    tiny_base: BaseModel, settings: TrainingSettings
) -> None:
    adapter = initial_adapter(layer_shapes(tiny_base), rank=4, seed=0)
    found = example_losses(tiny_base, adapter, EXAMPLES, settings.changed(batch_size=3))
    alone = [example_losses(tiny_base, adapter, [example], settings) for example in EXAMPLES]
    assert [one.num_tokens for one in alone] == found.tokens.tolist()
    np.testing.assert_allclose(found.sums, [one.sums[0] for one in alone], rtol=1e-5)
    mean, tokens = held_out_loss(tiny_base, adapter, EXAMPLES, settings)
    assert found.mean == pytest.approx(mean, rel=1e-5)
    assert found.num_tokens == tokens


def test_a_gain_has_the_standard_error_of_its_pairs() -> None:
    tokens = np.array([2, 4, 1, 0])
    one = ExampleLosses(np.array([2.0, 8.0, 1.0, 0.0]), tokens)
    other = ExampleLosses(np.array([4.0, 16.0, 4.0, 0.0]), tokens)
    gain, error = one.better_by(other)
    # Per token 1, 2 and 3; the last example has no token to learn.
    assert gain == pytest.approx(2.0)
    assert error == pytest.approx(1 / 3**0.5)
    assert other.better_by(one)[0] == pytest.approx(-2.0)
    single = ExampleLosses(one.sums[:1], tokens[:1])
    assert single.better_by(ExampleLosses(other.sums[:1], tokens[:1])) == (1.0, math.inf)


def test_a_device_that_holds_out_nothing_cannot_measure(
    tiny_base: BaseModel, settings: TrainingSettings
) -> None:
    adapter = initial_adapter(layer_shapes(tiny_base), rank=4, seed=0)
    with pytest.raises(ConfigError, match="holds out 0 examples, and 1 is needed"):
        held_out_loss(tiny_base, adapter, [], settings)
