import numpy as np
import pytest

from flower_strategy.adapter import AdapterState, LoraFactors
from flower_strategy.update_norms import NormJudge, update_norm


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
    assert update_norm(sent, sent) == pytest.approx(0.0, abs=1e-4)


def test_one_length_far_outside_is_refused_wherever_in_the_round_it_comes() -> None:
    judge = NormJudge(limit=10)
    for length in (1e6, 1.0, 1.2, 0.9):
        judge.note(length)
    assert "833333 times the round's median" not in (judge.complaint(9.9) or "")
    assert judge.complaint(9.9) is None
    assert "norm-limit is 10" in (judge.complaint(1e6) or "")


def test_the_last_round_helps_to_judge_the_first_reply() -> None:
    judge = NormJudge(limit=10, last_round=[1.0, 1.1, 0.9])
    assert judge.ready
    judge.note(500.0)
    assert judge.complaint(500.0) is not None
    fresh = NormJudge(limit=10)
    fresh.note(500.0)
    assert not fresh.ready


def test_devices_that_learned_nothing_do_not_make_the_others_odd() -> None:
    judge = NormJudge(limit=10)
    for length in (0.0, 0.0, 0.0, 1.0):
        judge.note(length)
    assert judge.complaint(1.0) is None
    assert judge.complaint(0.0) is None


def test_a_limit_of_zero_accepts_every_length() -> None:
    judge = NormJudge(limit=0)
    for length in (1.0, 1.0, 1e30):
        judge.note(length)
    assert judge.ready
    assert judge.complaint(1e30) is None
