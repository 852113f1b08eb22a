"""Which of the expert's distributions are kept, and which stay valid as the text grows."""

from __future__ import annotations

import numpy as np
import pytest

from vllm_logits_processor.alignment.groups import ExpertTopK, stacked
from vllm_logits_processor.alignment.maps import NOTHING
from vllm_logits_processor.alignment.prefix import ExpertPrefix
from vllm_logits_processor.expert.call_times import CallTimes
from vllm_logits_processor.expert.lookahead import LookAhead, Place, ReceivedDistributions
from vllm_logits_processor.expert.protocol import Continuation
from vllm_logits_processor.testing.tokenizers import trained_vocabulary

EXPERT = trained_vocabulary("byte-level")
ENDING = b" sat on the mat"


def said(text: bytes, *, more: list[int] | None = None) -> Continuation:
    """Return a continuation that spells `text`; row i names token i in its top-K."""
    tokens = [*EXPERT.encode(text), *(more or [])]
    return Continuation(
        tokens=np.array(tokens),
        top=ExpertTopK(
            token_ids=np.arange(len(tokens))[:, None], logprobs=np.zeros((len(tokens), 1))
        ),
    )


class Text:
    """A text and the distributions received for it."""

    def __init__(self, data: bytes, *, most: int = 8) -> None:
        self.prefix = ExpertPrefix(EXPERT)
        self.prefix.extend(data)
        self.received = ReceivedDistributions(vocabulary=EXPERT, lookahead=LookAhead(most=most))

    @property
    def here(self) -> Place:
        return Place(offset=self.prefix.length, token_ids=self.prefix.token_ids())

    def grow(self, data: bytes) -> int | None:
        """Append `data`; return which row of the continuation is known at the new end."""
        self.prefix.extend(data)
        self.received.follow(data, self.prefix)
        row = self.received.rows.get(self.prefix.length)
        return None if row is None else int(row.token_ids[0, 0])


def pieces(data: bytes) -> list[bytes]:
    return [EXPERT.token_bytes[token] or b"" for token in EXPERT.encode(data)]


def test_a_text_that_follows_finds_its_words_there() -> None:
    text = Text(b"The cat")
    text.received.receive(text.here, said(ENDING))
    for step, piece in enumerate(pieces(ENDING)[:-1], start=1):
        assert text.grow(piece) == step
    # Nothing was requested after the last token.
    assert text.grow(pieces(ENDING)[-1]) is None


def test_a_text_that_departs_drops_the_rest() -> None:
    text = Text(b"The cat")
    text.received.receive(text.here, said(ENDING))
    before = text.received.lookahead.followed
    assert text.grow(b" 12") is None
    assert text.received.end is None
    assert text.received.lookahead.followed < before


def test_a_token_of_the_host_may_end_inside_one_of_the_experts() -> None:
    text = Text(b"The cat")
    first, *rest = pieces(b" watching the cat")
    text.received.receive(text.here, said(b" watching the cat"))
    assert len(first) > 2
    assert text.grow(first[:2]) is None
    assert text.grow(first[2:]) == 1
    assert text.grow(rest[0]) == 2


def test_a_token_of_the_host_may_pass_several_of_the_experts() -> None:
    text = Text(b"The cat")
    text.received.receive(text.here, said(ENDING))
    passed = pieces(ENDING)[:3]
    assert text.grow(b"".join(passed)) == 3


def test_another_tokenization_of_the_same_bytes_is_not_the_texts() -> None:
    text = Text(b"The")
    whole = EXPERT.encode(b" cat")
    spelled = [EXPERT.encode(bytes([byte]))[0] for byte in b" cat"]
    assert len(whole) < len(spelled)
    odd = Continuation(tokens=np.array([*spelled, 5]), top=said(b"").top)
    odd = Continuation(
        tokens=odd.tokens,
        top=ExpertTopK(token_ids=np.arange(5)[:, None], logprobs=np.zeros((5, 1))),
    )
    text.received.receive(text.here, odd)
    assert text.grow(b" cat") is None


def test_an_end_of_turn_ends_what_is_ahead() -> None:
    text = Text(b"The cat")
    end = min(EXPERT.end_ids)
    text.received.receive(text.here, said(b" sat", more=[end, *EXPERT.encode(b" on")]))
    assert text.received.end is not None
    assert text.received.end.offset == len(b"The cat sat")


def test_a_call_ahead_continues_the_chain_unless_the_text_departed() -> None:
    text = Text(b"The cat")
    text.received.receive(text.here, said(b" sat"))
    end = text.received.end
    assert end is not None
    assert end.token_ids == EXPERT.encode(b"The cat sat")
    text.received.receive_ahead(end, said(b" on the mat"))
    assert text.grow(b" sat") == 0
    assert text.grow(pieces(b" on the mat")[0]) == 1

    departed = Text(b"The cat")
    departed.received.receive(departed.here, said(b" sat"))
    end = departed.received.end
    assert end is not None
    departed.grow(b" 12")
    departed.received.receive_ahead(end, said(b" on the mat"))
    assert departed.received.end is None


def test_without_look_ahead_nothing_is_kept_ahead() -> None:
    text = Text(b"The cat", most=1)
    text.received.receive(text.here, said(ENDING))
    assert text.received.end is None
    assert text.grow(pieces(ENDING)[0]) is None


def test_what_was_said_long_ago_is_forgotten() -> None:
    text = Text(b"The")
    for _ in range(20):
        text.received.receive(text.here, said(b" cat"))
        text.grow(b" cat sat on the mat,")
    assert len(text.received.rows) <= 2


def test_a_forks_words_hold_where_the_text_goes_its_way() -> None:
    for data, found in ((b" cat", True), (b" mat", False)):
        text = Text(b"The")
        fork = text.received.forked()
        there = text.prefix.branch(b" cat")
        fork.receive(Place(offset=there.length, token_ids=there.token_ids()), said(b" sat"))
        text.received.adopt(fork, there, drafted=b" cat")
        assert (text.grow(data) is not None) == found


def test_stacking_fills_short_rows() -> None:
    rows = [
        ExpertTopK(token_ids=np.array([[1, 2]]), logprobs=np.array([[-1.0, -2.0]])),
        ExpertTopK(token_ids=np.array([[3]]), logprobs=np.array([[-0.5]])),
    ]
    together = stacked(rows)
    assert together.token_ids.tolist() == [[1, 2], [3, NOTHING]]
    assert together.logprobs.tolist() == [[-1.0, -2.0], [-0.5, -np.inf]]
    with pytest.raises(ValueError, match="empty"):
        stacked([])


def times(*, first: float, further: float, host: float = 1.0) -> CallTimes:
    """Return times of calls that take as long as this line says, in any unit."""
    known = CallTimes()
    known.observe_host(host)
    for steps in (1, 2, 4, 8, 16, 32, 64) * 20:
        known.observe_call(steps=steps, seconds=first + (steps - 1) * further)
    return known


def test_steps_grow_while_the_text_follows_and_shrink_when_it_departs() -> None:
    ahead = LookAhead(most=8, times=times(first=3.0, further=0.2))
    for _ in range(40):
        ahead.observe(followed=True)
    assert ahead.steps == 8
    assert ahead.worth_asking_ahead
    for _ in range(40):
        ahead.observe(followed=False)
    assert ahead.steps == 1
    assert not ahead.worth_asking_ahead


@pytest.mark.parametrize(
    ("first", "steps"),
    [(0.5, {1}), (0.9, {1}), (1.1, {1, 2}), (3.0, {4, 5, 6}), (20.0, {8, 9, 10})],
)
def test_the_farther_the_expert_the_more_steps(first: float, steps: set[int]) -> None:
    ahead = LookAhead(most=64, times=times(first=first, further=0.25))
    assert ahead.steps in steps
    assert ahead.worth_asking_ahead == (first > 1)


def test_the_steps_are_those_with_the_shortest_wait_per_token() -> None:
    """By another way: a text that follows with this probability, drawn ten thousand times."""
    first, further, followed, host = 4.0, 0.3, 0.8, 1.0
    random = np.random.default_rng(0)
    runs = random.geometric(1 - followed, size=10_000)
    waited = [
        (first + (steps - 1) * further - host) / np.minimum(runs, steps).mean()
        for steps in range(1, 33)
    ]
    ahead = LookAhead(most=32, followed=followed, times=times(first=first, further=further))
    assert waited[ahead.steps - 1] < 1.01 * min(waited)


def test_steps_at_most_double_while_the_cost_of_more_is_unknown() -> None:
    known = CallTimes()
    ahead, asked = LookAhead(most=20, times=known), []
    for _ in range(7):
        asked.append(ahead.steps)
        known.observe_call(steps=asked[-1], seconds=2.0)
    assert asked == [1, 2, 4, 8, 16, 20, 20]


def test_no_steps_are_asked_for_that_would_be_late() -> None:
    known = CallTimes(deadline_s=3.5)
    for steps in (1, 2, 4, 8, 16) * 20:
        known.observe_call(steps=steps, seconds=2.0 + 0.25 * (steps - 1))
    assert 1 < LookAhead(most=16, followed=0.99, times=known).steps <= 7


@pytest.mark.parametrize("followed", [0.0, 0.5, 1.0])
def test_one_is_the_least_and_the_limit_is_the_most(followed: float) -> None:
    known = times(first=3.0, further=0.1)
    assert LookAhead(most=1, followed=followed, times=known).steps == 1
    assert 1 <= LookAhead(most=4, followed=followed, times=known).steps <= 4


def test_nothing_is_asked_ahead_where_the_limit_is_one() -> None:
    known = times(first=3.0, further=0.1)
    assert not LookAhead(most=1, followed=1.0, times=known).worth_asking_ahead
