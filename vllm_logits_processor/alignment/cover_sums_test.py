"""The compiled sums of two small texts by hand; `covers_test` has whole texts, by an oracle."""

from __future__ import annotations

import numpy as np
import pytest

from vllm_logits_processor.alignment.cover_sums import add_up, crossing, mark_worth, weigh_nodes

# The first text: its start, a node off the path behind token 7, and the end behind token 5. The
# second one has no distribution at its start.
NODES = np.array(
    [
        # offset, begin, token, first, behind, extends, to_end, askable
        (0, -1, -1, 2, 6, True, True, True),
        (1, 0, 7, 8, 9, True, False, True),
        (2, 0, 5, 0, 0, False, True, True),
        (0, -1, -1, 1, 3, True, True, True),
        (3, 0, 4, 0, 0, False, True, True),
    ],
    dtype=np.int64,
)
FIRST = np.array([0, 3, 5])
ROW_OF = np.array([0, -1, -1, -1, -1])
IDS = np.array([[5, 3, 7, -1, 99]])


def weighed() -> tuple[np.ndarray, ...]:
    """Return weights, masses, and what the row lacks."""
    weights, missing, unlisted = np.empty((5, 3)), np.empty(1), np.empty(1)
    masses = np.array([[0.4, 0.3, 0.1, 0.7, 0.05]])
    weigh_nodes(NODES, FIRST, ROW_OF, IDS, masses, weights, missing, unlisted)
    return weights, masses, missing, unlisted


def test_a_node_weighs_what_leads_to_it() -> None:
    weights, masses, missing, unlisted = weighed()
    # Fill has no mass, and no unlisted token has more than the least likely listed one.
    assert masses.tolist() == [[0.4, 0.3, 0.1, 0.0, 0.05]]
    assert missing == pytest.approx([0.15])
    assert unlisted.tolist() == [0.05]
    known = [[1.0] * 3, [0.1] * 3, [0.4] * 3]
    # Without a distribution, any share may lead on.
    assert weights.tolist() == [*known, [1.0] * 3, [0.0, 0.5, 1.0]]


def test_a_row_that_lacks_only_rounding_lacks_nothing() -> None:
    weights, missing, unlisted = np.empty((3, 3)), np.empty(1), np.empty(1)
    masses = np.array([[0.5, 0.3, 0.2 - 1e-14, 0.0, 0.0]])
    weigh_nodes(NODES[:3], FIRST[:2], ROW_OF[:3], IDS, masses, weights, missing, unlisted)
    assert missing.tolist() == unlisted.tolist() == [0.0]


@pytest.mark.parametrize(
    ("goes_on", "total", "marked"), [(0.05, 0.4, [1, 3]), (0.05, 0.6, [3]), (0.01, 0.4, [3])]
)
def test_nodes_are_worth_asking_for_by_their_share(
    goes_on: float, total: float, marked: list[int]
) -> None:
    weights, found = weighed()[0], np.empty(5, dtype=np.bool_)
    totals = np.array([total, 0.5])
    mark_worth(NODES, FIRST, ROW_OF, weights, totals, 0.01, goes_on, found)
    assert np.flatnonzero(found).tolist() == marked


def test_tokens_that_cross_the_end_are_found_by_their_bytes() -> None:
    ranks = np.array([0, 0, 0, 4, 0, 6, 0, 2], dtype=np.int32)
    every, none = np.ones(2, dtype=np.bool_), np.zeros(2, dtype=np.bool_)
    # Text, node, row, place and token; one beyond the vocabulary never crosses.
    found = [[0, 0, 0, 1, 3], [0, 0, 0, 2, 7]]
    assert crossing(NODES, FIRST, ROW_OF, IDS, ranks, every).tolist() == found
    assert not len(crossing(NODES, FIRST, ROW_OF, IDS, ranks, none))


def test_what_is_not_known_adds_to_the_error() -> None:
    weights, _, missing, unlisted = weighed()
    totals, errors, tried = np.array([0.3, 0.0]), np.zeros(2), np.empty(5, dtype=np.bool_)
    own = np.array([2, 0, 0, 0, 0])
    count = add_up(
        NODES, FIRST, ROW_OF, weights, missing, unlisted, own, 0.01, totals, errors, tried
    )
    assert totals == pytest.approx([0.7, 0.5])
    # Two more tokens may cross the end of the first text from its start.
    assert errors == pytest.approx([2 * 0.05, 0.0])
    assert count == 2
    assert np.flatnonzero(tried).tolist() == [1, 3]
