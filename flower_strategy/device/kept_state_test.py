import pickle
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from flower_strategy.adapters import int8
from flower_strategy.adapters.adapter import AdapterState, initial_adapter
from flower_strategy.device import kept_state
from flower_strategy.device.data_order import Place
from flower_strategy.device.kept_state import DeviceState, SentUpload, load_state
from flower_strategy.device.training import Moments, Progress, TrainingOutcome
from flower_strategy.testing.adapters import SHAPES, random_adapter


def state(rank: int = 3, *, scaling: float = 2.0) -> DeviceState:
    own = random_adapter(rank, 0, scaling=scaling)
    return DeviceState(
        run="a run",
        began=2,
        own=own,
        steps=12,
        counted=SentUpload(3, int8.encode(own), scaling),
        progress=Progress(
            Place(1, 5), Moments(random_adapter(rank, 1), random_adapter(rank, 2), 12)
        ),
    )


def same(one: AdapterState, other: AdapterState) -> bool:
    return one.scaling == other.scaling and all(
        np.array_equal(factors.a, other.layers[name].a)
        and np.array_equal(factors.b, other.layers[name].b)
        for name, factors in one.layers.items()
    )


def loaded(
    records: RecordDict,
    *,
    run: str = "a run",
    began: int = 2,
    counted: int = 3,
    stored: int = 0,
) -> DeviceState | None:
    return load_state(records, run=run, began=began, counted=counted, stored=stored, shapes=SHAPES)


def test_the_state_comes_back_as_it_was_also_from_another_process() -> None:
    before, records = state(), RecordDict()
    before.save(records)
    # Flower's simulation engine passes it so.
    after = loaded(pickle.loads(pickle.dumps(records)))
    assert after is not None
    assert (after.run, after.began, after.steps) == ("a run", 2, 12)
    assert same(after.own, before.own)
    assert after.sent is not None
    assert same(after.sent, int8.rounded(before.own))
    assert after.progress.place == Place(1, 5)
    old, new = before.progress.moments, after.progress.moments
    assert old is not None
    assert new is not None
    assert same(new.first, old.first)
    assert same(new.second, old.second)
    assert new.steps == 12


def test_the_server_says_which_upload_counts() -> None:
    later, records = random_adapter(3, 7), RecordDict()
    replace(state(), latest=SentUpload(5, int8.encode(later), 1.0)).save(records)
    counted = {number: loaded(records, counted=number) for number in (0, 3, 4, 5)}
    # The server went back to a round that the device no longer remembers.
    assert counted.pop(4) is None
    sent = {number: found.sent for number, found in counted.items() if found is not None}
    assert sent.keys() == {0, 3, 5}
    assert sent[0] is None
    for number, adapter in ((3, state().own), (5, later)):
        found = sent[number]
        assert found is not None
        assert same(found, int8.rounded(adapter))
    # Only the last one has all that the device has learned.
    told = {number: found.is_all_sent for number, found in counted.items() if found is not None}
    assert told == {0: False, 3: False, 5: True}


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(st.sampled_from(["away", "late", "arrived"]), st.booleans()),
        max_size=12,
    )
)
def test_the_state_has_whatever_upload_the_server_counts(
    rounds: list[tuple[str, bool]],
) -> None:
    records, own = RecordDict(), random_adapter(2, 0)
    outcome = TrainingOutcome(own, loss=1.0, steps=1, progress=Progress())
    arrays = int8.encode(own)
    DeviceState(run="a run", began=2, own=own).after(outcome, arrays, server_round=2).save(records)
    # As the server knows it: the upload that is in the mean, and the one that it has stored.
    counted, kept = 0, 2
    for number, (fate, moved) in enumerate(rounds, 3):
        if fate in ("late", "arrived"):
            state = loaded(records, counted=counted, stored=kept)
            assert state is not None
            assert (state.counted.round if state.counted else 0) == counted
            assert state.stored is None or counted != state.stored.round == kept
            state.after(outcome, arrays, server_round=number).save(records)
        kept = number if fate == "arrived" else kept
        counted = kept if moved else counted
    # Three at most, and two where the stored one counts.
    uploads = [name for name in records if name in kept_state._UPLOADS]
    assert len(uploads) <= 3


@pytest.mark.parametrize(("run", "began"), [("another", 2), ("a run", 0), ("a run", 3)])
def test_the_state_of_another_run_or_beginning_is_not_taken(run: str, began: int) -> None:
    records = RecordDict()
    state().save(records)
    assert loaded(records, run=run, began=began) is None
    assert loaded(RecordDict(), run=run, began=began) is None


def test_the_state_of_a_model_with_other_layers_is_not_taken() -> None:
    records = RecordDict()
    state().save(records)
    assert load_state(records, run="a run", began=2, counted=3, shapes={"up": (7, 5)}) is None


@settings(deadline=None, max_examples=30)
@given(rank=st.integers(1, 5), new=st.integers(1, 7), scaling=st.sampled_from([0.5, 1.0, 4.0]))
def test_another_rank_and_scaling_keep_the_weight_changes(
    rank: int, new: int, scaling: float
) -> None:
    before = state(rank)
    initial = initial_adapter(SHAPES, rank=new, seed=0)
    after = before.at(new, scaling, initial=initial)
    assert after.own.scaling == scaling
    assert all(factors.rank == new for factors in after.own.layers.values())
    assert after.progress.place == before.progress.place
    assert after.sent is not None
    assert before.sent is not None
    assert same(after.sent, before.sent)
    for name in SHAPES:
        if new >= rank:
            np.testing.assert_allclose(after.own.delta(name), before.own.delta(name), atol=1e-4)
        else:
            # The best approximation leaves out the smallest singular values.
            values = np.linalg.svd(before.own.delta(name), compute_uv=False)
            lost = np.linalg.norm(after.own.delta(name) - before.own.delta(name))
            assert lost == pytest.approx(float(np.linalg.norm(values[new:])), abs=1e-3)
    assert (after.progress.moments is None) == (new < rank)


def test_moments_follow_the_scaling_as_gradients_do() -> None:
    before = state(scaling=2.0)
    after = before.rescaled(1.0)
    old, new = before.progress.moments, after.progress.moments
    assert old is not None
    assert new is not None
    for name in SHAPES:
        # B is twice as large, so its gradient is half of what it was; A's stays.
        np.testing.assert_allclose(after.own.layers[name].b, 2 * before.own.layers[name].b)
        np.testing.assert_allclose(new.first.layers[name].b, old.first.layers[name].b / 2)
        np.testing.assert_allclose(new.second.layers[name].b, old.second.layers[name].b / 4)
        assert np.array_equal(new.second.layers[name].a, old.second.layers[name].a)


def test_what_flowers_message_cannot_hold_is_left_out(
    monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    before, records = state(), RecordDict()
    size = before.own.num_bytes + 2 * int8.encoded_bytes(before.own)
    monkeypatch.setattr(kept_state, "MOST_BYTES", size)
    before.save(records)
    after = loaded(records)
    assert after is not None
    assert same(after.own, before.own)
    assert (after.progress.moments, after.progress.place) == (None, Place(1, 5))
    monkeypatch.setattr(kept_state, "MOST_BYTES", size - 1)
    before.save(records)
    assert loaded(records) is None
    assert not records
    assert "begins anew in every round" in log.text
