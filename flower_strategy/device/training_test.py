import math

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord

from flower_strategy.adapters.adapter import AdapterState, initial_adapter
from flower_strategy.config import RunConfig
from flower_strategy.data.examples import Example
from flower_strategy.device.base_model import (
    BaseModel,
    adapted,
    adapted_shapes,
    from_peft,
    layer_shapes,
    to_peft,
)
from flower_strategy.device.embedding import embed_texts, task_embedding
from flower_strategy.device.encoding import Encoder
from flower_strategy.device.hardware import Device
from flower_strategy.device.training import collate, held_out_loss, response_loss, train_adapter
from flower_strategy.device.training_cost import measure_training
from flower_strategy.settings import EmbeddingSettings, TrainingSettings

EXAMPLES = [Example(f"say {word}:", f" {word} {word}") for word in ("ab", "cd", "ef", "gh")]


def fresh(base: BaseModel, rank: int = 4) -> AdapterState:
    return initial_adapter(layer_shapes(base), rank=rank, seed=0)


def test_all_seven_projections_are_found_without_loading_weights(
    tiny_model: str, tiny_base: BaseModel
) -> None:
    shapes = adapted_shapes(tiny_model)
    assert shapes == layer_shapes(tiny_base)
    assert len(shapes) == 14
    assert shapes["model.layers.0.self_attn.k_proj"] == (16, 32)
    assert shapes["model.layers.1.mlp.down_proj"] == (32, 48)


def test_settings_travel_in_a_record_beside_other_keys() -> None:
    settings = TrainingSettings.from_config(
        RunConfig(rslora=True, alpha=16, proximal=0.5, clock="real")
    )
    record = settings.to_record()
    record["server-round"] = 3
    assert TrainingSettings.from_record(record) == settings
    assert settings.scaling(4) == 8.0
    assert (settings.proximal, settings.clock) == (0.5, "real")
    assert isinstance(record, ConfigRecord)


def test_the_loss_is_that_of_the_response_alone(tiny_base: BaseModel) -> None:
    examples = [Example("some prompt", " reply"), Example("p", " r")]
    settings = TrainingSettings(model="tiny", max_length=48)
    total, count = response_loss(tiny_base.model, collate(examples, tiny_base, settings))
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
    assert count == tokens
    assert float(total) == pytest.approx(expected, rel=1e-4)


def test_an_adapter_changes_the_model_by_its_product_and_is_taken_off_again(
    tiny_base: BaseModel,
) -> None:
    layer = "model.layers.0.mlp.up_proj"
    weight = tiny_base.model.get_submodule(layer).weight
    before = weight.clone()
    state = fresh(tiny_base)
    generator = np.random.default_rng(0)
    for factors in state.layers.values():
        factors.b[:] = generator.normal(size=factors.b.shape)
    adapter = AdapterState(state.layers, scaling=0.5)
    vector = torch.randn(1, weight.shape[1])
    with adapted(tiny_base, adapter) as model:
        moved = model.get_submodule(f"base_model.model.{layer}")(vector)
        expected = vector @ (before + torch.from_numpy(adapter.delta(layer))).T
        torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-5)
    assert tiny_base.model.get_submodule(layer).weight is weight
    assert torch.equal(weight, before)
    assert not any(parameter.requires_grad for parameter in tiny_base.model.parameters())


def test_peft_names_give_back_the_adapter(tiny_base: BaseModel) -> None:
    adapter = fresh(tiny_base)
    back = from_peft(to_peft(adapter), scaling=1.0)
    assert back.shapes == adapter.shapes
    for name in adapter.layers:
        assert np.array_equal(back.layers[name].a, adapter.layers[name].a)


def test_training_lowers_the_loss_and_is_the_same_for_the_same_seed(
    tiny_base: BaseModel, settings: TrainingSettings
) -> None:
    start = fresh(tiny_base)
    before, tokens = held_out_loss(tiny_base, start, EXAMPLES, settings)
    outcome = train_adapter(tiny_base, start, EXAMPLES, settings, order_seed=(1, 2))
    again = train_adapter(tiny_base, start, EXAMPLES, settings, order_seed=(1, 2))
    after, _ = held_out_loss(tiny_base, outcome.adapter, EXAMPLES, settings)
    assert after < before - 0.05
    assert tokens == sum(len(example.response) + 1 for example in EXAMPLES)
    assert math.isfinite(outcome.loss)
    layer = next(iter(start.layers))
    assert np.array_equal(outcome.adapter.delta(layer), again.adapter.delta(layer))
    assert not start.delta(layer).any()


def moved(start: AdapterState, end: AdapterState) -> float:
    """Return the distance of two adapters' factors."""
    return math.sqrt(
        sum(
            float(np.square(factors.a - start.layers[name].a).sum())
            + float(np.square(factors.b - start.layers[name].b).sum())
            for name, factors in end.layers.items()
        )
    )


def test_a_large_proximal_term_holds_the_adapter_and_is_not_in_the_reported_loss(
    tiny_base: BaseModel, settings: TrainingSettings
) -> None:
    start = fresh(tiny_base)
    longer = settings.changed(local_steps=25)
    free = train_adapter(tiny_base, start, EXAMPLES, longer)
    held = train_adapter(tiny_base, start, EXAMPLES, longer.changed(proximal=1e4))
    assert moved(start, held.adapter) < 0.05 * moved(start, free.adapter)
    # The term itself is some 60 at the end.
    first, _ = held_out_loss(tiny_base, start, EXAMPLES, settings)
    assert free.loss < held.loss < first + 0.5


def test_the_proximal_term_pulls_towards_the_adapter_that_came(
    tiny_base: BaseModel, settings: TrainingSettings
) -> None:
    # There the term has no slope: one step is the same with it, bit for bit, two are not.
    start = train_adapter(tiny_base, fresh(tiny_base), EXAMPLES, settings).adapter
    layer = next(iter(start.layers))
    for steps, same in ((1, True), (2, False)):
        short = settings.changed(local_steps=steps)
        free = train_adapter(tiny_base, start, EXAMPLES, short)
        held = train_adapter(tiny_base, start, EXAMPLES, short.changed(proximal=10.0))
        assert np.array_equal(free.adapter.delta(layer), held.adapter.delta(layer)) is same


def test_few_examples_suffice_for_a_large_batch(
    tiny_base: BaseModel, settings: TrainingSettings
) -> None:
    outcome = train_adapter(tiny_base, fresh(tiny_base), EXAMPLES[:1], settings)
    assert math.isfinite(outcome.loss)


def test_eval_examples_limits_what_is_measured(
    tiny_base: BaseModel, settings: TrainingSettings
) -> None:
    limited = TrainingSettings(**{**vars(settings), "eval_examples": 1})
    _, tokens = held_out_loss(tiny_base, fresh(tiny_base), EXAMPLES, limited)
    assert tokens == len(EXAMPLES[0].response) + 1


def test_embeddings_have_unit_length_and_depend_on_the_text(tiny_base: BaseModel) -> None:
    vectors = embed_texts(tiny_base, ["aaaa", "aaaa", "()()()"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(vectors[0], vectors[1])
    assert vectors[0] @ vectors[2] < 0.999


def test_the_task_embedding_is_the_mean_direction_and_noise_moves_it(
    tiny_base: BaseModel,
) -> None:
    texts = ["one two", "x = y + 1", "not used"]
    settings = EmbeddingSettings(texts=2)
    plain = task_embedding(tiny_base, texts, settings)
    mean = embed_texts(tiny_base, texts[:2]).mean(axis=0)
    np.testing.assert_allclose(plain.vector, mean / np.linalg.norm(mean), rtol=1e-5)
    noisy = task_embedding(tiny_base, texts, EmbeddingSettings(texts=2, noise=0.1), seed=1)
    assert np.linalg.norm(noisy.vector) == pytest.approx(1.0, rel=1e-5)
    assert 0.3 < noisy.vector @ plain.vector < 0.99
    spread = np.linalg.norm(embed_texts(tiny_base, texts[:2]) - mean, axis=1)
    assert plain.error == pytest.approx(
        np.sqrt(np.square(spread).sum() / 2) / np.linalg.norm(mean), rel=1e-4
    )
    assert noisy.error > plain.error
    unseeded = EmbeddingSettings(texts=2, noise=0.1)
    assert not np.array_equal(
        task_embedding(tiny_base, texts, unseeded).vector,
        task_embedding(tiny_base, texts, unseeded).vector,
    )


def test_measuring_counts_seconds_and_memory(
    tiny_base: BaseModel, settings: TrainingSettings
) -> None:
    device = Device(name="here", memory_bytes=1)
    cost = measure_training(tiny_base, EXAMPLES, settings, device, ranks=(2, 8))
    numbers = sum(out + inner for out, inner in layer_shapes(tiny_base).values())
    assert cost.step_ranks == (2, 8)
    assert all(0 < seconds < 30 for seconds in cost.step_seconds)
    assert cost.upload_per_rank == 4 * numbers
    assert cost.bytes_per_rank == 16 * numbers
    wide = TrainingSettings(**{**vars(settings), "batch_size": 8})
    more = measure_training(tiny_base, EXAMPLES, wide, device, ranks=(2, 8))
    weights = tiny_base.weight_bytes
    assert more.fixed_bytes - weights > 2 * (cost.fixed_bytes - weights) > 0
