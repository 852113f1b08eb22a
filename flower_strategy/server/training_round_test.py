"""Which updates a round refuses, shortens and counts, through the real configure and aggregate."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict

from flower_strategy.messages import CONFIG_KEY, METRICS_KEY
from flower_strategy.schedule import asked_move
from flower_strategy.server.records import RoundRecord
from flower_strategy.server.round import Round
from flower_strategy.testing.fleets import RATE, SHAPES, STEPS, Fleet, NodesGrid
from flower_strategy.testing.grids import InProcessGrid

# Of the requested change per entry, SmolLM2 made 0.66 to 0.96 in 3 steps and 0.27 in 60.
USUAL, SPREAD = 0.7, 0.4


def refused(record: RoundRecord) -> set[int]:
    return {refusal.node for refusal in record.refused}


def usual(random: np.random.Generator, nodes: Sequence[int]) -> dict[int, float]:
    return {node: USUAL * float(np.exp(SPREAD * random.standard_normal())) for node in nodes}


@pytest.mark.parametrize(
    ("ranks", "idle"),
    [
        ([8] * 10, (0, 1, 2, 3)),
        ([8] * 5, (0, 1)),
        ([8] * 2, (0,)),
        ([4, 4, 512], ()),
        ([4, 512], ()),
        ([8] * 10, (0, 1, 2, 3, 4, 5)),
    ],
    ids=["4 of 10", "2 of 5", "1 of 2", "4,4,512", "4,512", "6 of 10"],
)
def test_nobody_honest_is_refused_because_others_idle_or_have_other_ranks(
    ranks: list[int], idle: tuple[int, ...]
) -> None:
    fleet = Fleet(ranks)
    for _ in range(4):
        shares = usual(fleet.random, fleet.nodes) | dict.fromkeys(idle, 1 / 1338)
        if 512 in ranks:
            # What SmolLM2 moved at these ranks.
            shares = {node: {4: 0.70, 512: 0.96}[rank] for node, rank in enumerate(ranks)}
        before = fleet.adapter()
        record = fleet.round(shares)
        assert not refused(record)
        assert not record.notes
        assert np.linalg.norm(fleet.adapter() - before) > 0


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("bad", [{1: 900.0, 8: 4000.0}, {1: 900.0, 3: 800.0, 6: 700.0, 8: 4000.0}])
def test_the_outcome_does_not_depend_on_the_order_of_replies(
    own: bool, bad: dict[int, float]
) -> None:
    # The second set makes half of the trained updates absurd: then they count, shortened.
    ranks = [4, 4, 8, 16, 8, 4, 16, 16, 8, 4]
    shares = {0: 1e-5, 2: 0.0, **{node: 0.6 + 0.05 * node for node in (3, 4, 5, 6, 7)}, 9: 40.0}
    outcomes = []
    random = np.random.default_rng(5)
    orders = [range(10), range(9, -1, -1), *(random.permutation(10).tolist() for _ in range(4))]
    for order in orders:
        fleet = Fleet(ranks, own=own)
        record = fleet.round(shares | bad, order=list(order))
        outcomes.append((refused(record), record.notes, fleet.adapter()))
    assert outcomes[0][0] == (set(bad) if len(bad) == 2 else set())
    for gone, notes, adapter in outcomes[1:]:
        assert gone == outcomes[0][0]
        assert notes == outcomes[0][1]
        assert np.linalg.norm(adapter - outcomes[0][2]) <= 1e-5 * np.linalg.norm(adapter)


@pytest.mark.parametrize("rank", [1, 8, 512])
@pytest.mark.parametrize("scaling", [{}, {"alpha": 16.0}, {"alpha": 16.0, "rslora": True}])
def test_a_minority_of_huge_updates_is_kept_out_from_the_first_round(
    rank: int, scaling: dict[str, Any]
) -> None:
    fleet, alone = (Fleet([rank] * 5, **scaling) for _ in range(2))
    good = usual(np.random.default_rng(1), range(5))
    record = fleet.round(good | {0: 1000 * good[0], 3: 1000 * good[3]})
    assert refused(record) == {0, 3}
    assert "times what the steps and learning rates asked for make" in record.refused[0].reason
    alone.round(good, order=[1, 2, 4])
    np.testing.assert_allclose(
        fleet.adapter(), alone.adapter(), atol=1e-6 * np.abs(alone.adapter()).max()
    )
    # A device that behaves again counts at once.
    assert not refused(fleet.round(usual(fleet.random, fleet.nodes)))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_among_fewer_than_five_nobody_is_refused_and_what_is_long_is_shortened(
    count: int,
) -> None:
    fleet, honest = Fleet([8] * count), Fleet([8] * count)
    shares = dict.fromkeys(range(count), 1.0)
    honest.round(shares, order=[0])
    one = np.linalg.norm(honest.adapter())
    record = fleet.round(shares | {0: 1000.0})
    assert not refused(record)
    assert record.clusters["cluster-0"].replies == count
    assert "1 updates were shortened to norm-limit, that of node 0 most" in record.notes[0]
    assert 5 * one / count < np.linalg.norm(fleet.adapter()) < 12 * one / count


def test_idle_devices_do_not_make_up_the_five() -> None:
    fleet = Fleet([8] * 8)
    assert not refused(fleet.round({**dict.fromkeys(range(4), 0.0), 4: 1, 5: 1, 6: 1, 7: 1000}))


def test_a_minority_of_the_run_is_refused_where_it_is_the_majority_of_a_cluster() -> None:
    fleet = Fleet([8] * 12, clusters=[range(9), range(9, 12)])
    shares = usual(fleet.random, fleet.nodes)
    record = fleet.round(shares | {10: 2000.0, 11: 2000.0})
    assert refused(record) == {10, 11}
    assert record.clusters["cluster-1"].replies == 1


def test_devices_that_all_train_far_more_than_asked_still_move_their_cluster() -> None:
    fleet = Fleet([8] * 6)
    record = fleet.round(dict.fromkeys(fleet.nodes, 300.0))
    assert not refused(record)
    assert record.clusters["cluster-0"].moved
    assert "6 updates were shortened" in record.notes[0]


@pytest.mark.parametrize("factor", [1.3, 0.5])
def test_a_patient_minority_moves_nobodys_scale(factor: float) -> None:
    fleet, share, sizes = Fleet([4, 8, 16, 8, 4, 8, 16, 8, 4, 8]), 1.0, []
    for _ in range(15):
        shares = usual(fleet.random, fleet.nodes) | dict.fromkeys((0, 1, 2, 3), share)
        record = fleet.round(shares)
        assert refused(record) <= {0, 1, 2, 3}
        # Only the four are shortened or refused, in every round.
        assert not any(note.startswith(tuple("56789")) for note in record.notes)
        sizes.append(max(sent.length for sent in _sent(fleet)))
        share *= factor
    honest = Fleet([4, 8, 16, 8, 4, 8, 16, 8, 4, 8])
    for _ in range(15):
        honest.round(usual(honest.random, honest.nodes))
    # The adapter's own length is in the scale; four of ten at the limit do not inflate it by much.
    assert max(sizes) < 2 * max(sent.length for sent in _sent(honest))


def warming(fleet: Fleet, **keys: Any) -> Fleet:
    """Let the learning rate rise from 0 over the whole run."""
    strategy = fleet.strategy
    strategy.training = strategy.training.changed(warmup_ratio=1.0, **keys)
    return fleet


def test_a_round_whose_learning_rate_is_zero_refuses_nobody() -> None:
    fleet = warming(Fleet([8] * 6), local_steps=1)
    before = fleet.adapter()
    assert not asked_move(fleet.strategy.training, num_examples=100, server_round=1, num_rounds=0)
    record = fleet.round(dict.fromkeys(fleet.nodes, 0.0))
    assert not refused(record)
    assert not record.notes
    assert record.clusters["cluster-0"].replies == 6
    np.testing.assert_array_equal(fleet.adapter(), before)
    # A trainer of a client's own that knows nothing of the schedule.
    fleet = warming(Fleet([8] * 6), local_steps=1)
    record = fleet.round(dict.fromkeys(fleet.nodes, 0.0) | {2: 1.0, 4: 0.5})
    assert not refused(record)
    assert record.clusters["cluster-0"].replies == 6
    (note,) = record.notes
    assert note.startswith("2 updates were shortened to norm-limit, that of node 2 most: its ")
    assert note.endswith(", and all learning rates of this round are 0.")
    np.testing.assert_array_equal(fleet.adapter(), before)


def test_at_the_begin_of_a_warm_up_who_trains_at_the_highest_rate_is_shortened_only() -> None:
    fleet = warming(Fleet([8] * 7))
    honest = dict.fromkeys(range(7), USUAL / 1000)
    record = fleet.round(honest | {6: USUAL}, num_rounds=1000)
    assert not refused(record)
    assert record.notes[0].startswith("1 updates were shortened to norm-limit, that of node 6")
    # What no rate of the run makes is refused as in any round.
    assert refused(warming(Fleet([8] * 7)).round(honest | {6: 1000 * USUAL}, num_rounds=1000)) == {
        6
    }


def test_clusters_wait_for_a_round_in_which_devices_learn_to_be_split_by_adapters() -> None:
    fleet = warming(Fleet([8] * 6), local_steps=1)
    strategy, state = fleet.strategy, fleet.strategy.state
    strategy.clustering = replace(strategy.clustering, by="adapter")
    strategy.participation = strategy.participation.changed(rank_correction=False)
    for split in (False, True):
        fleet.round(usual(fleet.random, fleet.nodes) if split else dict.fromkeys(fleet.nodes, 0.0))
        strategy.prepare_next_round(len(state.history))
        assert state.split_by_adapter is split
        assert not state.moved_unsketched
    assert all(state.has_sketch(node) for node in fleet.nodes)


def _sent(fleet: Fleet) -> list[Any]:
    strategy = fleet.strategy
    now, strategy.round = strategy.round, Round(record=RoundRecord(round=99))
    strategy.configure_train(99, ArrayRecord(), ConfigRecord(), NodesGrid(fleet.nodes))
    sent, strategy.round = list(strategy.round.sent.values()), now
    return sent


def test_fewer_than_one_in_a_thousand_honest_devices_are_refused() -> None:
    random = np.random.default_rng(11)
    seen = gone = shortened = 0
    for number in range(70):
        ranks = random.choice([1, 2, 4, 8, 16, 32], random.integers(2, 51)).tolist()
        # One of them is a workstation; large ranks take most of the test's time.
        ranks[0] = 512 if number % 12 == 2 else 64
        how: dict[str, Any] = [{}, {"alpha": 16.0}, {"alpha": 16.0, "rslora": True}][number % 7 % 3]
        fleet = Fleet(ranks, seed=number, **how)
        # In a quarter of the fleets, some devices train a tenth or three times of the request.
        other = random.choice([1.0, 0.1, 3.0] if number % 4 == 1 else [1.0], len(ranks))
        idle = random.random(len(ranks)) < random.choice([0.0, 0.2, 0.6])
        for _ in range(2):
            shares = usual(random, fleet.nodes)
            shares = {n: share * other[n] * (not idle[n]) for n, share in shares.items()}
            record = fleet.round(shares, order=random.permutation(len(ranks)).tolist())
            seen, gone = seen + len(ranks), gone + len(record.refused)
            shortened += len(record.notes)
    assert seen > 3000
    assert gone * 1000 < seen
    assert not shortened


def test_a_length_follows_the_rounds_rates_and_a_devices_own_steps() -> None:
    fleet = Fleet([8] * 5, examples={0: 40, 1: 160, 2: 4, 3: 40, 4: 10_000_000})
    strategy = fleet.strategy
    strategy.training = strategy.training.changed(
        epochs=1.0, lr_schedule="cosine", warmup_ratio=0.25
    )
    strategy.envelope = replace(strategy.envelope, training=strategy.training)
    lengths = {}
    for number in (1, 2, 4):
        strategy.round = Round(record=RoundRecord(round=number), num_rounds=4)
        messages = strategy.configure_train(
            number, ArrayRecord(), ConfigRecord(), NodesGrid(fleet.nodes)
        )
        for message in messages:
            config = message.content.config_records[CONFIG_KEY]
            assert (config["server-round"], config["num-rounds"]) == (number, 4)
        lengths[number] = {node: sent.length for node, sent in strategy.round.sent.items()}
    assert lengths[2][1] == pytest.approx(4 * lengths[2][0], rel=0.05)
    # What a device says of itself moves it no further than four times the median one.
    assert lengths[2][4] == lengths[2][1]
    # Warming up, at the top, at the end.
    assert lengths[1][1] < lengths[2][1]
    assert lengths[4][1] < 0.3 * lengths[2][1]
    # The one step of the warm-up has the rate 0: nothing is asked, and nothing is odd.
    assert lengths[1][2] == 0


def test_a_round_that_asks_for_no_move_takes_what_did_not_move() -> None:
    fleet = Fleet([8] * 6)
    fleet.round(usual(fleet.random, fleet.nodes))
    strategy = fleet.strategy
    strategy.training = strategy.training.changed(warmup_ratio=1.0, local_steps=1)
    strategy.envelope = replace(strategy.envelope, training=strategy.training)
    state = strategy.state
    state.history.clear()
    record = fleet.round(dict.fromkeys(fleet.nodes, 0.0))
    assert not refused(record)
    assert not record.notes
    assert record.clusters["cluster-0"].moved


def test_a_limit_of_zero_takes_every_length() -> None:
    fleet = Fleet([8] * 6, limit=0.0)
    record = fleet.round(dict.fromkeys(fleet.nodes, 1.0) | {0: 1e6})
    assert not refused(record)
    assert not record.notes


@pytest.mark.parametrize("own", [False, True])
def test_memory_does_not_grow_with_the_replies_whatever_their_length(own: bool) -> None:
    peaks = []
    for count in (20, 120):
        fleet = Fleet([8] * count, own=own)
        # What devices keep is not in the server's memory.
        fleet.forgets = True
        shares = {node: (1.0, 40.0, 5000.0)[node % 3] for node in fleet.nodes}
        tracemalloc.start()
        fleet.round(shares)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # A reply is 20 KB; a device's record and its refusal are 1 KB.
    assert peaks[1] - peaks[0] < 100 * 4_000


def test_a_claim_of_examples_changes_no_weight_and_is_capped_by_the_profile() -> None:
    fleet, honest = (Fleet([8] * 3, examples={0: 10}) for _ in range(2))
    claims = {0: 5_000_000, 1: 100, 2: 7}

    def claim(node: int, metrics: MetricRecord) -> None:
        metrics["num-examples"] = claims[node]

    record = fleet.round(dict.fromkeys(range(3), 1.0), change=claim)
    assert {node: device.num_examples for node, device in record.devices.items()} == {
        0: 10,
        1: 100,
        2: 7,
    }
    honest.round(dict.fromkeys(range(3), 1.0))
    np.testing.assert_allclose(fleet.adapter(), honest.adapter(), atol=1e-7)


def test_a_device_weighs_at_most_ten_times_the_median_steps() -> None:
    fleet = Fleet([8] * 3, own=True)
    fleet.strategy.state.steps = {0: 100_000, 1: 27, 2: 27}
    record = fleet.round({0: 1.0, 1: 0.0, 2: 0.0})
    assert record.clusters["cluster-0"].replies == 3
    assert fleet.own is not None
    alone = np.concatenate([fleet.own[0].delta(layer).ravel() for layer in SHAPES])
    share = 10 * 30 / (10 * 30 + 30 + 30)
    error = np.linalg.norm(fleet.adapter() - share * alone)
    assert error < 0.02 * np.linalg.norm(alone)


def test_own_adapters_grow_without_being_taken_for_odd() -> None:
    fleet = Fleet([4, 8, 16, 8, 4, 16], own=True)
    for _ in range(8):
        record = fleet.round(usual(fleet.random, fleet.nodes))
        assert not refused(record)
        assert not record.notes
        assert record.clusters["cluster-0"].moved
    # All have moved eight times: one that moved a thousand times as far stands out still.
    record = fleet.round(dict.fromkeys(fleet.nodes, 1.0) | {2: 8000.0})
    assert refused(record) == {2}
    # What it had sent before counts instead.
    assert record.clusters["cluster-0"].kept == 1


@pytest.mark.parametrize(
    "claim",
    [0, -3, 2.5, 1e300, pytest.param(2**1100, id="no float"), float("inf"), [4]],
)
def test_a_count_of_examples_that_is_none_is_refused(claim: Any) -> None:
    fleet = Fleet([8] * 3)

    def change(node: int, metrics: MetricRecord) -> None:
        if node == 1:
            metrics["num-examples"] = claim

    record = fleet.round(dict.fromkeys(range(3), 1.0), change=change)
    assert refused(record) == {1}


def test_a_held_out_loss_counts_for_no_more_tokens_than_the_profile_allows() -> None:
    fleet = Fleet([8] * 2)
    strategy = fleet.strategy
    strategy.round = Round(record=RoundRecord(round=1))
    for tokens in (10**10, 200):
        messages = strategy.configure_evaluate(1, ArrayRecord(), ConfigRecord(), NodesGrid([0, 1]))
        replies = []
        for message, (loss, count) in zip(messages, ((9.0, tokens), (1.0, 100)), strict=True):
            assert message.metadata.message_type == MessageType.EVALUATE
            InProcessGrid.taken(message)
            numbers = MetricRecord({"held-out-loss": loss, "num-tokens": count})
            replies.append(Message(content=RecordDict({METRICS_KEY: numbers}), reply_to=message))
        strategy.aggregate_evaluate(1, replies)
        most = 18 * 100 * strategy.training.max_length
        assert strategy.round.record.devices[0].held_out_tokens == min(tokens, most)


@pytest.mark.parametrize(("own", "alpha"), [(False, 0.0), (True, 0.0), (True, 0.01)])
def test_a_reply_whose_mean_cannot_be_sent_ends_no_run(own: bool, alpha: float) -> None:
    fleet = Fleet([8] * 2, limit=0.0, own=own, alpha=alpha)
    fleet.round(dict.fromkeys(fleet.nodes, 1.0))
    before = fleet.adapter()
    huge = {0: 8e6 / (STEPS * RATE)}
    record = fleet.round(dict.fromkeys(fleet.nodes, 1.0) | huge)
    (note,) = record.notes
    assert note.startswith("cluster-0 keeps its adapter: its replies have no mean that can be sent")
    assert note.endswith("resume after the round before, with norm-limit=10")
    assert not record.clusters["cluster-0"].moved
    np.testing.assert_array_equal(fleet.adapter(), before)
    # The next messages can be made.
    assert len(_sent(fleet)) == 2
    grid = NodesGrid(fleet.nodes)
    assert fleet.strategy.configure_evaluate(9, ArrayRecord(), ConfigRecord(), grid)
