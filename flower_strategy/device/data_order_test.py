from collections import Counter

import pytest

from flower_strategy.data.examples import Example
from flower_strategy.device.data_order import Place, steps_from
from flower_strategy.settings import TrainingSettings

EXAMPLES = [Example(f"{number}:", " x") for number in range(10)]


@pytest.fixture
def settings() -> TrainingSettings:
    return TrainingSettings(model="none", batch_size=3)


def prompts(
    settings: TrainingSettings, place: Place, steps: int, seed: tuple[int, ...] = (1,)
) -> tuple[list[list[str]], Place]:
    found = list(steps_from(place, EXAMPLES, settings, seed, steps=steps))
    return [[example.prompt for example in chosen] for chosen, _ in found], found[-1][1]


def test_the_order_goes_on_over_the_rounds(settings: TrainingSettings) -> None:
    whole, end = prompts(settings, Place(), 7)
    first, place = prompts(settings, Place(), 2)
    rest, same = prompts(settings, place, 5)
    assert first + rest == whole
    assert same == end == Place(passes=2, used=1)
    assert all(len(step) == 3 for step in whole)
    counts = Counter(prompt for step in whole for prompt in step)
    assert set(counts.values()) == {2, 3}


def test_passes_and_devices_have_orders_of_their_own(settings: TrainingSettings) -> None:
    ten = settings.changed(batch_size=10)
    (first, second), _ = prompts(ten, Place(), 2)
    (other, _), _ = prompts(ten, Place(), 2, seed=(1, 5))
    assert sorted(first) == sorted(second) == sorted(other)
    assert len({tuple(first), tuple(second), tuple(other)}) == 3


def test_with_epochs_a_pass_ends_with_its_last_examples(settings: TrainingSettings) -> None:
    found, place = prompts(settings.changed(epochs=1.0), Place(), 5)
    assert [len(step) for step in found] == [3, 3, 3, 1, 3]
    assert place == Place(passes=1, used=3)


def test_a_device_with_fewer_examples_than_before_begins_a_pass(
    settings: TrainingSettings,
) -> None:
    _, place = prompts(settings, Place(passes=2, used=10), 1)
    assert place == Place(passes=3, used=3)
