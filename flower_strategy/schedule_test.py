from typing import Any

import pytest
import torch
from transformers import get_scheduler

from flower_strategy.schedule import asked_move, learning_rates
from flower_strategy.settings import TrainingSettings

RATE = 0.01


def of_one_training(name: str, steps: int, warmup: int, **options: float) -> list[float]:
    """Return the rates that transformers' scheduler gives to a training in one go."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight], lr=RATE)
    scheduler = get_scheduler(name, optimizer, warmup, steps, options)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, of_one_training("constant", 20, 0)),
        ({"warmup_ratio": 0.25}, of_one_training("constant_with_warmup", 20, 5)),
        ({"lr_schedule": "cosine"}, of_one_training("cosine", 20, 0)),
        (
            {"lr_schedule": "cosine", "warmup_ratio": 0.12},
            of_one_training("cosine", 20, 3),
        ),
        (
            {"lr_schedule": "cosine", "learning_rate_min": 0.002, "warmup_ratio": 0.1},
            of_one_training("cosine_with_min_lr", 20, 2, min_lr=0.002),
        ),
    ],
)
def test_the_rounds_rates_are_those_of_one_training_of_the_whole_run(
    keys: dict[str, Any], expected: list[float]
) -> None:
    settings = TrainingSettings(model="none", learning_rate=RATE, local_steps=4, **keys)
    rounds = [
        learning_rates(settings, steps=4, server_round=number, num_rounds=5)
        for number in (1, 2, 3, 4, 5)
    ]
    assert [rate for rates in rounds for rate in rates] == pytest.approx(expected, rel=1e-12)
    # A process that begins with a later round, as a resumed run does, gives the same.
    assert learning_rates(settings, steps=4, server_round=4, num_rounds=5) == rounds[3]
    for number, rates in enumerate(rounds, 1):
        move = asked_move(settings, num_examples=7, server_round=number, num_rounds=5)
        assert move == pytest.approx(sum(rates))


def test_a_device_of_more_steps_goes_through_the_same_schedule() -> None:
    settings = TrainingSettings(
        model="none", learning_rate=RATE, epochs=1.0, batch_size=1, lr_schedule="cosine"
    )
    for number in (1, 2, 3):
        few, many = (
            asked_move(settings, num_examples=count, server_round=number, num_rounds=3)
            for count in (50, 500)
        )
        assert many == pytest.approx(10 * few, rel=0.05)


def test_rounds_beyond_the_last_have_its_rate() -> None:
    settings = TrainingSettings(model="none", lr_schedule="cosine", learning_rate_min=1e-4)
    rates = learning_rates(settings, steps=3, server_round=9, num_rounds=0)
    assert rates == learning_rates(settings, steps=3, server_round=9, num_rounds=9)
