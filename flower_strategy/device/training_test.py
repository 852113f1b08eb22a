import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord

from floe_plugins.errors import ConfigError
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
from flower_strategy.device.hardware import Device
from flower_strategy.device.loss import Batch, collate, held_out_loss
from flower_strategy.device.training import train_adapter
from flower_strategy.device.training_cost import measure_training
from flower_strategy.schedule import learning_rates
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
        RunConfig(rslora=True, alpha=16, max_epochs=0.5, clock="real")
    )
    record = settings.to_record()
    record["server-round"] = 3
    assert TrainingSettings.from_record(record) == settings
    assert settings.scaling(4) == 8.0
    assert (settings.max_epochs, settings.clock) == (0.5, "real")
    assert isinstance(record, ConfigRecord)


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


def test_rounds_go_on_where_the_last_one_stopped(
    tiny_base: BaseModel, settings: TrainingSettings
) -> None:
    # More examples than a round's steps take.
    examples = [Example(f"say {n}:", f" {n} {n}") for n in range(7)]
    start = fresh(tiny_base)
    whole = train_adapter(tiny_base, start, examples, settings.changed(local_steps=5))
    first = train_adapter(tiny_base, start, examples, settings.changed(local_steps=2))
    rest = train_adapter(
        tiny_base,
        first.adapter,
        examples,
        settings.changed(local_steps=3),
        progress=first.progress,
        server_round=2,
        num_rounds=2,
    )
    assert (first.steps, rest.steps) == (2, 3)
    assert rest.progress.place == whole.progress.place
    assert close(rest.adapter, whole.adapter, tolerance=0.0)
    assert 2 * first.loss + 3 * rest.loss == pytest.approx(5 * whole.loss)
    # Without the moments AdamW's next steps are others.
    forgetful = replace(first.progress, moments=None)
    other = train_adapter(
        tiny_base,
        first.adapter,
        examples,
        settings.changed(local_steps=3),
        progress=forgetful,
        server_round=2,
        num_rounds=2,
    )
    assert not close(rest.adapter, other.adapter, tolerance=1e-3)


def test_a_fixed_adapter_counts_as_weights_do_and_stays_as_it_is(
    tiny_base: BaseModel, settings: TrainingSettings
) -> None:
    examples = [Example("say x:", " x x")]
    generator = np.random.default_rng(3)
    start, fixed = fresh(tiny_base), fresh(tiny_base, rank=7)
    for factors in fixed.layers.values():
        factors.b[:] = 0.3 * generator.normal(size=factors.b.shape)
    found = train_adapter(tiny_base, start, examples, settings, fixed=fixed)
    alone = train_adapter(tiny_base, start, examples, settings)
    merged = copy.deepcopy(tiny_base.model)
    for name in fixed.layers:
        merged.get_submodule(name).weight.add_(torch.from_numpy(fixed.delta(name)))
    expected = train_adapter(replace(tiny_base, model=merged), start, examples, settings)
    assert found.loss == pytest.approx(expected.loss, rel=1e-4)
    assert close(found.adapter, expected.adapter, tolerance=2e-3)
    assert not close(found.adapter, alone.adapter, tolerance=2e-3)
    assert found.adapter.shapes == start.shapes
    assert found.adapter.rank == start.rank
    assert not any(weight.requires_grad for weight in tiny_base.model.parameters())


def test_a_round_ends_early_when_it_is_enough(
    tiny_base: BaseModel, settings: TrainingSettings
) -> None:
    asked: list[int] = []

    def enough(steps: int) -> bool:
        asked.append(steps)
        return steps == 2

    how = settings.changed(local_steps=5)
    short = train_adapter(tiny_base, fresh(tiny_base), EXAMPLES, how, enough=enough)
    two = train_adapter(tiny_base, fresh(tiny_base), EXAMPLES, how.changed(local_steps=2))
    assert (short.steps, asked) == (2, [1, 2])
    assert short.progress.place == two.progress.place
    assert close(short.adapter, two.adapter, tolerance=0.0)
    assert short.loss == pytest.approx(two.loss)


def close(one: AdapterState, other: AdapterState, *, tolerance: float) -> bool:
    return all(
        np.allclose(factors.a, other.layers[name].a, atol=tolerance)
        and np.allclose(factors.b, other.layers[name].b, atol=tolerance)
        for name, factors in one.layers.items()
    )


def test_batches_of_a_step_add_up_to_a_larger_one(
    tiny_base: BaseModel, settings: TrainingSettings
) -> None:
    # Responses of different lengths: a mean of the batches' means would be another loss.
    examples = [Example(f"say {n}:", " ab" * n) for n in range(1, 9)]
    large = settings.changed(batch_size=8)
    small = large.changed(batch_size=2, gradient_accumulation_steps=4)
    start = fresh(tiny_base)
    whole = train_adapter(tiny_base, start, examples, large, order_seed=(3,))
    parts = train_adapter(tiny_base, start, examples, small, order_seed=(3,))
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    # AdamW divides gradients by their size: where one is nearly zero, rounding shows.
    length = moved(start, whole.adapter)
    assert moved(whole.adapter, parts.adapter) < 0.02 * length
    one = train_adapter(tiny_base, start, examples, large.changed(batch_size=2), order_seed=(3,))
    assert moved(whole.adapter, one.adapter) > 0.2 * length


def test_checkpointing_gives_the_same_adapter(
    tiny_base: BaseModel, settings: TrainingSettings
) -> None:
    passes = []
    layer = tiny_base.model.get_submodule("model.layers.0.mlp")
    hook = layer.register_forward_pre_hook(lambda *_: passes.append(1))
    found = []
    for checkpointing in (False, True):
        passes.clear()
        how = settings.changed(gradient_checkpointing=checkpointing, lora_dropout=0.2)
        found.append(train_adapter(tiny_base, fresh(tiny_base), EXAMPLES, how))
        # With it, each step passes through a layer again.
        assert len(passes) == settings.local_steps * (1 + checkpointing)
    hook.remove()
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-6)
    assert close(found[0].adapter, found[1].adapter, tolerance=1e-5)
    assert not tiny_base.model.is_gradient_checkpointing


def test_dropout_is_drawn_from_the_seed_and_in_training_alone(
    tiny_base: BaseModel, settings: TrainingSettings
) -> None:
    dropping = settings.changed(lora_dropout=0.5)
    start = fresh(tiny_base)
    before = torch.random.get_rng_state()
    plain, once, again, other = (
        train_adapter(tiny_base, start, EXAMPLES[:1], how, order_seed=seed).adapter
        for how, seed in (
            (settings, (1,)),
            (dropping, (1,)),
            (dropping, (1,)),
            (dropping, (2,)),
        )
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert close(once, again, tolerance=0.0)
    # There is one example: what differs is what was dropped.
    assert not close(once, other, tolerance=1e-3)
    assert not close(once, plain, tolerance=1e-3)
    assert not tiny_base.model.training
    measured = [held_out_loss(tiny_base, once, EXAMPLES, how) for how in (settings, dropping)]
    assert measured[0] == measured[1]


def test_gradients_are_clipped_to_the_norm(
    tiny_base: BaseModel, settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def noted(self: torch.optim.AdamW, closure: None = None) -> None:
        gradients = [weight.grad for weight in self.param_groups[0]["params"]]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))
        step(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    for most in (0.0, 1e-3, 1e6):
        norms.clear()
        how = settings.changed(max_grad_norm=most, local_steps=2)
        train_adapter(tiny_base, fresh(tiny_base), EXAMPLES, how)
        if most == 1e-3:
            assert norms == pytest.approx([1e-3, 1e-3], rel=1e-3)
        else:
            assert min(norms) > 1e-2


def test_the_rates_of_the_round_are_those_of_the_steps(
    tiny_base: BaseModel, settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def noted(self: torch.optim.AdamW, closure: None = None) -> None:
        rates.append(self.param_groups[0]["lr"])
        step(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    how = settings.changed(lr_schedule="cosine", learning_rate_min=0.001, warmup_ratio=0.2)
    for number in (1, 2, 3):
        train_adapter(tiny_base, fresh(tiny_base), EXAMPLES, how, server_round=number, num_rounds=3)
    asked = [
        rate
        for number in (1, 2, 3)
        for rate in learning_rates(how, steps=3, server_round=number, num_rounds=3)
    ]
    assert rates == asked
    assert len(set(rates)) == 9


def test_an_epoch_is_every_example_once(
    tiny_base: BaseModel, settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[list[str]] = []

    def noted(examples: Sequence[Example], *others: Any) -> Batch:
        taken.append([example.prompt for example in examples])
        return collate(examples, *others)

    monkeypatch.setattr("flower_strategy.device.training.collate", noted)
    examples = [Example(f"{n}:", " ab") for n in range(5)]
    how = settings.changed(epochs=2.0, batch_size=2, gradient_accumulation_steps=2)
    train_adapter(tiny_base, fresh(tiny_base), examples, how)
    assert [len(batch) for batch in taken] == [2, 2, 1] * 2
    every = sorted(example.prompt for example in examples)
    for epoch in (taken[:3], taken[3:]):
        assert sorted(prompt for batch in epoch for prompt in batch) == every
    assert taken[:3] != taken[3:]


def test_bfloat16_computes_coarser_and_keeps_the_factors_type(
    tiny_base: BaseModel, settings: TrainingSettings
) -> None:
    types = []
    layer = tiny_base.model.get_submodule("model.layers.0.mlp.up_proj")
    hook = layer.register_forward_hook(lambda _, __, made: types.append(made.dtype))
    how = settings.changed(bf16=True)
    coarse = train_adapter(tiny_base, fresh(tiny_base), EXAMPLES, how)
    held_out_loss(tiny_base, coarse.adapter, EXAMPLES, how)
    hook.remove()
    assert set(types) == {torch.bfloat16}
    fine = train_adapter(tiny_base, fresh(tiny_base), EXAMPLES, settings)
    assert coarse.loss == pytest.approx(fine.loss, rel=0.02)
    assert coarse.loss != fine.loss


@pytest.mark.parametrize(
    ("examples", "changes", "said"),
    [
        ([], {}, "This device has 0 examples to train on; 1 is needed at least."),
        (EXAMPLES, {"max_length": 257}, "max-length=257 is more than the 256 positions"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence_before_a_step(
    tiny_base: BaseModel,
    settings: TrainingSettings,
    monkeypatch: pytest.MonkeyPatch,
    examples: list[Example],
    changes: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "step", None)
    with pytest.raises(ConfigError, match=said):
        train_adapter(tiny_base, fresh(tiny_base), examples, settings.changed(**changes))


def test_one_example_is_trained_on(tiny_base: BaseModel, settings: TrainingSettings) -> None:
    outcome = train_adapter(tiny_base, fresh(tiny_base), EXAMPLES[:1], settings)
    assert math.isfinite(outcome.loss)


def test_a_step_without_a_token_to_learn_is_refused_before_the_first(
    tiny_base: BaseModel, settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = copy.deepcopy(tiny_base.tokenizer)
    # Without an end of text an empty response has no token.
    silent.eos_token = None
    base = replace(tiny_base, tokenizer=silent)
    examples = [Example("some prompt", " reply"), Example("a prompt", "")]
    one = settings.changed(batch_size=1, local_steps=2)
    monkeypatch.setattr(torch.optim.AdamW, "step", None)
    with pytest.raises(ConfigError, match=r"Step [12] of this device has nothing to learn: none"):
        train_adapter(base, fresh(base), examples, one)
    monkeypatch.undo()
    # Beside another example it costs nothing.
    assert math.isfinite(train_adapter(base, fresh(base), examples, settings).loss)


def test_few_examples_suffice_for_a_large_batch(
    tiny_base: BaseModel, settings: TrainingSettings
) -> None:
    outcome = train_adapter(tiny_base, fresh(tiny_base), EXAMPLES[:1], settings)
    assert math.isfinite(outcome.loss)


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
    # A byte a number, and the two scales of each layer's term.
    assert cost.upload_per_rank == numbers + 4 * 14
    assert cost.bytes_per_rank == 48 * numbers
    wide = TrainingSettings(**{**vars(settings), "batch_size": 8})
    more = measure_training(tiny_base, EXAMPLES, wide, device, ranks=(2, 8))
    weights = tiny_base.weight_bytes
    assert more.fixed_bytes - weights > 2 * (cost.fixed_bytes - weights) > 0
