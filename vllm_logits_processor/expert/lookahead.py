"""The distributions received for one stream, at the places of its text and ahead of it.

`LookAhead` chooses how many of the expert's own next tokens a call requests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.alignment.prefix import ExpertPrefix, TokenIds
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.expert.call_times import CallTimes
from vllm_logits_processor.expert.protocol import Continuation

#: Weight of the past when a token follows the expert or departs from it.
_DECAY = 0.9


@dataclass
class LookAhead:
    """Adapts k, the steps of a call, to how far the text follows the expert and how far away it is.

    If the text follows each of the expert's tokens with probability f, a call for k tokens serves
    ``1 + f + ... + f**(k - 1)`` of the text's on average, and the host waits for it once. The k
    with the shortest wait per token served is the best, since the rest of a step is the same for
    all. Where no wait is expected, as with an expert that is quicker than the host, that is 1.

    Parameters
    ----------
    most : int
        Upper limit of k; 1 turns look-ahead off.
    times : CallTimes
        Those of all streams' calls.
    """

    most: int
    times: CallTimes = field(default_factory=CallTimes)
    #: Running share of the expert's own tokens that the text followed.
    followed: float = 0.7

    def observe(self, *, followed: bool) -> None:
        """Note whether the text followed the expert's next token or departed from it."""
        self.followed = _DECAY * self.followed + (1 - _DECAY) * followed

    @property
    def steps(self) -> int:
        """The k of the next call, at least 1."""
        # What longer calls cost is not known: k at most doubles from one call to the next.
        longest = min(self.most, 2 * max(1, self.times.last_steps))
        if longest == 1:
            return 1
        best, shortest, served = 1, math.inf, 0.0
        for steps in range(1, longest + 1):
            served += self.followed ** (steps - 1)
            wait = self.times.wait_s(steps) / served
            if wait < shortest:
                best, shortest = steps, wait
        return best

    @property
    def worth_asking_ahead(self) -> bool:
        """True if the next call is worth starting before the text reaches its place."""
        return self.most > 1 and self.followed >= 0.5 and self.times.wait_s(1) > 0


class Place(NamedTuple):
    """A place in the current or expected text at which the expert can predict the next token.

    Attributes
    ----------
    offset : int
        Bytes of text before it.
    token_ids : TokenIds
        The expert's tokens up to it.
    to_come : bytes
        Bytes that the text must still add to reach it; empty within the text so far.
    """

    offset: int
    token_ids: TokenIds
    to_come: bytes = b""


@dataclass
class _Ahead:
    """A place ahead of the text and its distribution; None at the end of a reply."""

    place: Place
    top: ExpertTopK | None


@dataclass
class ReceivedDistributions:
    """The expert's distributions that one stream may still use.

    `rows` holds those at places of the text so far. Those ahead of it come from look-ahead: they
    are valid if the text continues as the expert did, byte for byte and token for token, and are
    dropped as soon as it does not.

    Parameters
    ----------
    vocabulary : ByteVocabulary
        The expert's.
    lookahead : LookAhead
        Observes how far the text follows the expert.
    """

    vocabulary: ByteVocabulary
    lookahead: LookAhead
    rows: dict[int, ExpertTopK] = field(default_factory=dict)
    _ahead: list[_Ahead] = field(default_factory=list)
    _drafted: list[_Ahead] = field(default_factory=list)

    @property
    def end(self) -> Place | None:
        """The end of the expert's own continuation, if the text may still reach it."""
        return self._ahead[-1].place if self._ahead else None

    @property
    def places_ahead(self) -> int:
        """Number of places ahead of the text with a known distribution."""
        return sum(each.top is not None for each in self._ahead)

    def receive(self, place: Place, continuation: Continuation) -> None:
        """Store the distribution at a place of the text and, with look-ahead, those after it."""
        self.rows[place.offset] = continuation.top.first
        if self.lookahead.most > 1:
            self._ahead = []
            self._continue(place, continuation)

    def receive_late(
        self, place: Place, continuation: Continuation, *, since: bytes, prefix: ExpertPrefix
    ) -> None:
        """Store the distribution at a place that the text has passed.

        It serves covers of the last word and, with look-ahead, later places if the text continued
        as the expert did.

        Parameters
        ----------
        since : bytes
            The text after the place.
        prefix : ExpertPrefix
            The whole text.
        """
        rows = dict(self.rows)
        self.receive(place, continuation)
        if since:
            self.follow(since, prefix)
        # A distribution that is already known for the place is kept.
        self.rows.update(rows)

    def receive_ahead(self, place: Place, continuation: Continuation) -> None:
        """Store the distribution at a former `end`, unless the text has departed from it."""
        end = self.end
        if end is None or not self.leads_to(place):
            return
        self._ahead[-1].top = continuation.top.first
        self._continue(end, continuation)

    def leads_to(self, place: Place) -> bool:
        """Return whether a former `end` still is one: the text has not departed from it."""
        end = self.end
        return end is not None and (end.offset, end.token_ids) == (place.offset, place.token_ids)

    def _continue(self, place: Place, continuation: Continuation) -> None:
        """Store the places after `place` that the expert's own tokens lead to."""
        spelled = b""
        for step, token in enumerate(continuation.tokens.tolist(), start=1):
            piece = self.vocabulary.token_bytes[token]
            if not piece:
                # The expert ended its text here.
                return
            spelled += piece
            known = step < len(continuation.top.token_ids)
            self._ahead.append(
                _Ahead(
                    Place(
                        offset=place.offset + len(spelled),
                        token_ids=place.token_ids.followed_by(continuation.tokens[:step].tolist()),
                        to_come=place.to_come + spelled,
                    ),
                    continuation.top.row(step) if known else None,
                )
            )

    def follow(self, data: bytes, prefix: ExpertPrefix) -> None:
        """Follow the text, which has grown by `data`; `prefix` includes it already."""
        if not (self._ahead or self._drafted):
            self.forget(prefix.boundary())
            return
        for each in self._drafted:
            if data.startswith(each.place.to_come):
                self._reach(each, prefix)
        kept = []
        for each in self._ahead:
            place = each.place
            if len(place.to_come) > len(data) and place.to_come.startswith(data):
                kept.append(_Ahead(place._replace(to_come=place.to_come[len(data) :]), each.top))
                continue
            reached = data.startswith(place.to_come)
            self.lookahead.observe(followed=reached)
            if not reached:
                break
            self._reach(each, prefix)
        self._ahead, self._drafted = kept, []
        self.forget(prefix.boundary())

    def _reach(self, ahead: _Ahead, prefix: ExpertPrefix) -> None:
        """Keep a distribution whose place the text has reached."""
        place = ahead.place
        # Valid only for the canonical tokens of the text, the only ones that are ever sent.
        if (
            ahead.top is not None
            and place.offset >= prefix.boundary()
            and place.token_ids == prefix.token_ids_to(place.offset)
        ):
            self.rows[place.offset] = ahead.top

    def forget(self, before: int) -> None:
        """Drop the distributions at places before byte `before`."""
        if self.rows and min(self.rows) < before:
            self.rows = {offset: row for offset, row in self.rows.items() if offset >= before}

    def forked(self) -> ReceivedDistributions:
        """Return a copy for a text that may diverge (draft tokens)."""
        return ReceivedDistributions(
            vocabulary=self.vocabulary,
            lookahead=LookAhead(most=1, times=self.lookahead.times),
            rows=dict(self.rows),
        )

    def adopt(self, fork: ReceivedDistributions, prefix: ExpertPrefix, *, drafted: bytes) -> None:
        """Keep what a fork has received, in case the text continues as the fork did.

        Parameters
        ----------
        prefix : ExpertPrefix
            The fork's text.
        drafted : bytes
            The fork's text beyond this one.
        """
        here = prefix.length - len(drafted)
        for offset, row in fork.rows.items():
            if offset <= here:
                self.rows.setdefault(offset, row)
                continue
            place = Place(
                offset=offset,
                token_ids=prefix.token_ids_to(offset),
                to_come=drafted[: offset - here],
            )
            self._drafted.append(_Ahead(place, row))
