from typing import Any

import numpy as np
import pytest

from flower_strategy.adapters.adapter import AdapterState, LoraFactors, initial_adapter
from flower_strategy.data.examples import Example
from flower_strategy.device.base_model import BaseModel, layer_shapes
from flower_strategy.device.training import train_adapter
from flower_strategy.schedule import asked_move
from flower_strategy.server.update_norms import Judgement, LengthJudge, asked_length, update_norm
from flower_strategy.settings import TrainingSettings


def adapter(seed: int, *, rank: int, scaling: float) -> AdapterState:
    generator = np.random.default_rng(seed)
    return AdapterState(
        {
            name: LoraFactors(
                b=generator.normal(size=(rows, rank)).astype(np.float32),
                a=generator.normal(size=(rank, columns)).astype(np.float32),
            )
            for name, (rows, columns) in {"x": (20, 12), "y": (7, 30)}.items()
        },
        scaling,
    )


def test_the_norm_is_that_of_the_dense_change() -> None:
    sent, back = adapter(0, rank=3, scaling=2.0), adapter(1, rank=3, scaling=0.5)
    dense = np.sqrt(sum(np.sum((back.delta(name) - sent.delta(name)) ** 2) for name in sent.layers))
    assert update_norm(sent, back) == pytest.approx(float(dense), rel=1e-5)
    assert update_norm(sent, sent) == 0.0
    # As little as a step of a warm-up makes is no rounding.
    little = AdapterState(
        {name: LoraFactors(b=f.b, a=f.a * np.float32(1 + 1e-5)) for name, f in sent.layers.items()},
        sent.scaling,
    )
    dense = np.sqrt(sum(np.sum(sent.delta(name) ** 2) for name in sent.layers))
    assert update_norm(sent, little) == pytest.approx(1e-5 * float(dense), rel=0.05)


@pytest.mark.parametrize(
    ("rate", "scaling"),
    [(2e-2, {}), (2e-4, {"alpha": 16.0}), (2e-3, {"alpha": 16.0, "rslora": True})],
)
def test_real_training_is_as_long_as_asked_at_every_rank_and_scaling(
    tiny_base: BaseModel, settings: TrainingSettings, scaling: dict[str, Any], rate: float
) -> None:
    settings = settings.changed(learning_rate=rate, **scaling)
    examples = [Example(f"{n} + {n} = ", f"{2 * n}, as was asked for.") for n in range(8)]
    whole = initial_adapter(layer_shapes(tiny_base), rank=512, seed=0)
    times, bare = {}, {}
    for rank in (1, 8, 64, 512):
        sent = whole.resized(rank).with_scaling(settings.scaling(rank))
        back = train_adapter(tiny_base, sent, examples, settings).adapter
        bare[rank] = update_norm(sent, back)
        asked = asked_length(sent, move=settings.local_steps * rate)
        times[rank] = bare[rank] / asked
        # The hidden size is 32: at rank 512, agreeing signs can make it 5 times as long.
        assert 0.4 < times[rank] < 0.4 + 1.1 * (1 + (rank / 32) ** 0.5)
    # By unscaled length, at alpha = rank, rank 512 would look absurd beside rank 1.
    assert scaling or bare[512] > 20 * bare[1]
    assert times[64] < 3 * times[1]


@pytest.mark.parametrize(
    "keys",
    [
        {"epochs": 1.0, "batch_size": 1},
        {"gradient_accumulation_steps": 4, "max_grad_norm": 0.01},
        {"lr_schedule": "cosine", "learning_rate_min": 1e-5},
        {"lr_schedule": "cosine", "warmup_ratio": 0.5, "local_steps": 6},
    ],
)
def test_a_rounds_own_steps_and_rates_make_its_length(
    tiny_base: BaseModel, settings: TrainingSettings, keys: dict[str, Any]
) -> None:
    settings = settings.changed(**{"learning_rate": 2e-3, **keys})
    examples = [Example(f"{n} + {n} = ", f"{2 * n}, as was asked for.") for n in range(8)]
    sent = initial_adapter(layer_shapes(tiny_base), rank=8, seed=0)
    lengths = []
    for number in (1, 3, 5):
        place: dict[str, Any] = {"server_round": number, "num_rounds": 5}
        back = train_adapter(tiny_base, sent, examples, settings, **place).adapter
        move = asked_move(settings, num_examples=8, **place)
        lengths.append(asked_length(sent, move=move))
        assert 0.2 < update_norm(sent, back) / lengths[-1] < 2.0
    if settings.lr_schedule == "cosine":
        # The middle of the run moves an adapter several times as far as its end.
        assert lengths[1] > 3 * lengths[2]


def test_the_asked_length_is_that_of_moves_of_independent_signs() -> None:
    sent = adapter(3, rank=4, scaling=2.0)
    random = np.random.default_rng(0)
    move = 5 * 1e-3
    layers = {
        name: LoraFactors(
            b=f.b + (move * random.choice((-1, 1), f.b.shape)).astype(np.float32),
            a=f.a + (move * random.choice((-1, 1), f.a.shape)).astype(np.float32),
        )
        for name, f in sent.layers.items()
    }
    found = update_norm(sent, AdapterState(layers, 2.0))
    assert asked_length(sent, move=5 * 1e-3) == pytest.approx(found, rel=0.15)
    # Written with another scaling, a training of B moves it by as much more.
    zero = AdapterState(
        {n: LoraFactors(b=0 * f.b, a=f.a) for n, f in sent.layers.items()}, scaling=2.0
    )
    lengths = [asked_length(zero.with_scaling(scaling), move=1.0) for scaling in (2.0, 0.5)]
    assert lengths[0] == pytest.approx(4 * lengths[1])


def test_what_is_long_is_shortened_and_what_is_absurd_waits_for_the_rounds_end() -> None:
    judge = LengthJudge(10)
    assert judge.judge(9.9, 1.0) == Judgement(1.0, odd=False)
    assert judge.judge(40.0, 1.0) == Judgement(0.25, odd=False)
    assert judge.judge(1000.0, 1.0) == Judgement(0.01, odd=True)
    assert judge.judge(0.0, 1.0) == Judgement(1.0, odd=False)
    assert judge.judge(1e-4, 1.0) == Judgement(1.0, odd=False)
    assert (judge.trained, judge.odd, judge.refuses_odd) == (3, 1, False)
    judge.judge(1.0, 1.0)
    assert not judge.refuses_odd
    judge.judge(1.0, 1.0)
    assert judge.refuses_odd
    judge.judge(1e9, 1.0)
    assert judge.refuses_odd
    judge.judge(1e9, 1.0)
    judge.judge(1e9, 1.0)
    assert not judge.refuses_odd


def test_an_adapter_that_no_training_moves_takes_no_update() -> None:
    assert LengthJudge(10).judge(1.0, 0.0) == Judgement(0.0, odd=True)


def test_a_limit_of_zero_takes_every_length() -> None:
    assert LengthJudge(0).judge(1e30, 1.0) == Judgement(1.0, odd=False)
