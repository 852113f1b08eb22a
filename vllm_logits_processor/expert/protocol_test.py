from __future__ import annotations

import math

import numpy as np
import pytest

from vllm_logits_processor.alignment.maps import NOTHING
from vllm_logits_processor.expert.protocol import ExpertError, TopRow, checked_top_k

NO_ENDS = np.empty(0, dtype=np.int32)


def pairs(row: list[tuple[int, float]]) -> TopRow:
    return [token for token, _ in row], [logprob for _, logprob in row]


def check(
    row: list[tuple[int, float]], ends: list[int] | None = None
) -> tuple[list[int], list[float]]:
    top = checked_top_k([pairs(row)], vocabulary=100, end_ids=np.array(ends or [], dtype=np.int32))
    return top.token_ids[0].tolist(), top.logprobs[0].tolist()


def test_short_rows_are_filled() -> None:
    top = checked_top_k([([1], [-0.5]), ([2, 3], [-1.0, -2.0])], vocabulary=10, end_ids=NO_ENDS)
    assert top.token_ids.tolist() == [[1, NOTHING], [2, 3]]
    assert top.logprobs.tolist() == [[-0.5, -math.inf], [-1.0, -2.0]]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([], "no logprobs"),
        ([(100, -1.0)], r"outside 0\.\.99"),
        ([(-1, -1.0)], r"outside 0\.\.99"),
        ([(10**30, -1.0)], r"outside 0\.\.99"),
        ([(1, -1.0), (1, -2.0)], "twice"),
        ([(1, math.nan)], "NaN or above zero"),
        ([(1, 0.5)], "NaN or above zero"),
        ([(1, math.inf)], "NaN or above zero"),
        ([(1, -0.1), (2, -0.1)], "sum to more than one"),
    ],
)
def test_nonsense_is_refused_with_a_reason(row: list[tuple[int, float]], reason: str) -> None:
    with pytest.raises(ExpertError, match=reason):
        check(row)


def test_an_impossible_token_is_taken() -> None:
    assert check([(1, -9999.0), (2, 0.0)]) == ([1, 2], [-9999.0, 0.0])


def test_end_tokens_are_one_event() -> None:
    ids, logprobs = check([(7, math.log(0.2)), (5, math.log(0.5)), (8, math.log(0.1))], ends=[7, 8])
    assert ids == [7, 5, NOTHING]
    assert np.exp(logprobs) == pytest.approx([0.3, 0.5, 0.0])
