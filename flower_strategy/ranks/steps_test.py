import pytest

from flower_strategy.profile import DeviceProfile
from flower_strategy.ranks.cost import predicted_seconds
from flower_strategy.ranks.steps import planned_steps
from flower_strategy.settings import TrainingSettings
from flower_strategy.testing.models import make_profile


@pytest.fixture
def phone() -> DeviceProfile:
    """Return a device with steps of 2 s; at rank 4, 8 s of upload and 1 s of download."""
    return make_profile(
        step_seconds=(2.0, 2.0), upload_per_rank=200, bandwidth=100.0, num_examples=100
    )


@pytest.fixture
def training() -> TrainingSettings:
    return TrainingSettings(model="none", local_steps=3, batch_size=4, max_epochs=0.0)


def test_steps_fill_what_transfer_leaves_of_the_deadline(
    phone: DeviceProfile, training: TrainingSettings
) -> None:
    for deadline, steps in ((29.0, 10), (30.9, 10), (31.0, 11), (12.0, 1), (1.0, 1)):
        assert planned_steps(phone, 4, training, deadline=deadline) == steps
    assert planned_steps(phone, 4, training, deadline=29.0, pace=2.0) == 5
    # The deadline that a policy finds is that of the slowest device's local steps.
    automatic = predicted_seconds(phone, 4, local_steps=3)
    assert planned_steps(phone, 4, training, deadline=automatic) == 3


def test_a_device_that_claims_to_be_endlessly_fast_is_asked_for_a_million_steps(
    training: TrainingSettings,
) -> None:
    fast = make_profile(step_seconds=(1e-8, 1e-8), bandwidth=1e12, num_examples=10_000_000)
    steps = planned_steps(fast, 4, training, deadline=1000.0)
    assert training.changed(local_steps=steps).local_steps == 1_000_000


def test_without_a_deadline_and_with_epochs_the_settings_say_how_many(
    phone: DeviceProfile, training: TrainingSettings
) -> None:
    assert planned_steps(phone, 4, training) == 3
    kept = training.changed(fill_deadline=False)
    assert planned_steps(phone, 4, kept, deadline=1000.0) == 3
    assert planned_steps(phone, 4, training.changed(epochs=2.0), deadline=1.0) == 50


def test_the_cap_on_passes_is_spread_over_the_rounds(
    phone: DeviceProfile, training: TrainingSettings
) -> None:
    # A pass has 25 steps.
    capped = training.changed(max_epochs=2.0)
    taken: list[int] = []
    for number in (1, 2, 3, 4):
        steps = planned_steps(
            phone,
            4,
            capped,
            deadline=1000.0,
            taken=sum(taken),
            server_round=number,
            num_rounds=4,
        )
        taken.append(steps)
    assert taken == [13, 12, 13, 12]
    # What a device was too slow for in one round it may take later.
    more = planned_steps(phone, 4, capped, deadline=1000.0, taken=3, server_round=2, num_rounds=4)
    assert more == 22
    # At least one, and no less than fits.
    assert planned_steps(phone, 4, capped, deadline=1000.0, taken=99, num_rounds=1) == 1
    assert planned_steps(phone, 4, capped, deadline=29.0, num_rounds=1) == 10
