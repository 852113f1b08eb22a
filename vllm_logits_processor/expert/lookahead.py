"""The distributions received for one stream, at the places of its text and ahead of it.

`LookAhead` decides how many of the expert's own next tokens a call asks for: as many as the text
tends to follow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.alignment.maps import NOTHING
from vllm_logits_processor.alignment.prefix import ExpertPrefix
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.expert.protocol import Continuation

#: Weight of the past when another token followed the expert or departed from it.
_DECAY = 0.9
#: A token is asked for ahead while the chance that the text gets there is at least this.
_WORTH = 0.25


@dataclass
class LookAhead:
    """Adapts k, the number of steps of a call, to how far the text has followed lately.

    Parameters
    ----------
    most : int
        Upper limit of k; with 1 nothing is ever asked ahead.
    """

    most: int
    #: Running share of the expert's own tokens that the text took.
    followed: float = 0.7

    def observe(self, *, followed: bool) -> None:
        """Note whether the text took another of the expert's own tokens, or departed from them."""
        self.followed = _DECAY * self.followed + (1 - _DECAY) * followed

    @property
    def steps(self) -> int:
        """The k of the next call, at least 1."""
        if self.followed >= 1:
            return self.most
        wanted = 1 + math.log(_WORTH) / math.log(max(self.followed, 1e-9))
        return max(1, min(self.most, math.floor(wanted)))

    @property
    def worth_asking_ahead(self) -> bool:
        """True where the next call is worth starting before the text has got to its place."""
        return self.most > 1 and self.followed >= 0.5


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place in the text to be, where the expert was asked or may be asked.

    Attributes
    ----------
    offset : int
        Bytes of text in front of it.
    token_ids : list of int
        The expert's tokens up to it.
    to_come : bytes
        What the text still has to add to get there; empty for a place in the text so far.
    """

    offset: int
    token_ids: list[int]
    to_come: bytes = b""


@dataclass
class _Ahead:
    """A place ahead of the text, and the distribution there; None at the end of a reply."""

    place: Place
    top: ExpertTopK | None


@dataclass
class ReceivedDistributions:
    """The expert's distributions that may still be of use to one stream.

    Those at places of the text so far are in `rows`. Those ahead of it come from look-ahead: they
    hold if the text goes on as the expert did, byte for byte and token for token, and are dropped
    as soon as it does not.

    Parameters
    ----------
    vocabulary : ByteVocabulary
        The expert's.
    lookahead : LookAhead
        Told how far the text follows.
    """

    vocabulary: ByteVocabulary
    lookahead: LookAhead
    rows: dict[int, ExpertTopK] = field(default_factory=dict)
    _ahead: list[_Ahead] = field(default_factory=list)
    _drafted: list[_Ahead] = field(default_factory=list)

    @property
    def end(self) -> Place | None:
        """The end of the expert's own continuation, if the text may still get there."""
        return self._ahead[-1].place if self._ahead else None

    @property
    def places_ahead(self) -> int:
        """Number of places ahead of the text whose distribution is known."""
        return sum(each.top is not None for each in self._ahead)

    def receive(self, place: Place, continuation: Continuation) -> None:
        """Take in what the expert said at a place of the text and, with look-ahead, behind it."""
        self.rows[place.offset] = continuation.top.row(0)
        if self.lookahead.most > 1:
            self._ahead = []
            self._continue(place, continuation)

    def receive_late(
        self, place: Place, continuation: Continuation, *, since: bytes, prefix: ExpertPrefix
    ) -> None:
        """Take in what the expert said at a place that the text has left behind.

        It is of use for covers of the last word, and with look-ahead where the text has gone on as
        the expert did.

        Parameters
        ----------
        place : Place
        continuation : Continuation
        since : bytes
            What the text has behind the place.
        prefix : ExpertPrefix
            The whole text.
        """
        rows = dict(self.rows)
        self.receive(place, continuation)
        if since:
            self.follow(since, prefix)
        # What was said of a place once its text was read stands.
        self.rows.update(rows)

    def receive_ahead(self, place: Place, continuation: Continuation) -> None:
        """Take in what the expert said at what was `end`; nothing if the text has departed."""
        end = self.end
        if end is None or not self.leads_to(place):
            return
        self._ahead[-1].top = continuation.top.row(0)
        self._continue(end, continuation)

    def leads_to(self, place: Place) -> bool:
        """Tell whether a place that was `end` still is: the text has not departed from it."""
        end = self.end
        return end is not None and (end.offset, end.token_ids) == (place.offset, place.token_ids)

    def _continue(self, place: Place, continuation: Continuation) -> None:
        """Note the places behind `place` to which the expert's own tokens lead."""
        spelled = b""
        for step, token in enumerate(continuation.tokens.tolist(), start=1):
            piece = self.vocabulary.token_bytes[token]
            if not piece:
                # The expert ends here; what follows an end is no text.
                return
            spelled += piece
            known = step < len(continuation.top.token_ids)
            self._ahead.append(
                _Ahead(
                    Place(
                        offset=place.offset + len(spelled),
                        token_ids=place.token_ids + continuation.tokens[:step].tolist(),
                        to_come=place.to_come + spelled,
                    ),
                    continuation.top.row(step) if known else None,
                )
            )

    def follow(self, data: bytes, prefix: ExpertPrefix) -> None:
        """Take in that the text has grown by `data`; `prefix` has it already."""
        for each in self._drafted:
            if data.startswith(each.place.to_come):
                self._reach(each, prefix)
        kept = []
        for each in self._ahead:
            place = each.place
            if len(place.to_come) > len(data) and place.to_come.startswith(data):
                kept.append(_Ahead(replace(place, to_come=place.to_come[len(data) :]), each.top))
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
        # Only the canonical tokens of the text count: others would not be asked about either.
        if (
            ahead.top is not None
            and place.offset >= prefix.boundary()
            and place.token_ids == prefix.token_ids_to(place.offset)
        ):
            self.rows[place.offset] = ahead.top

    def forget(self, before: int) -> None:
        """Drop what was said at places before byte `before`."""
        self.rows = {offset: row for offset, row in self.rows.items() if offset >= before}

    def forked(self) -> ReceivedDistributions:
        """Return a copy for a text that may go another way (draft tokens)."""
        return ReceivedDistributions(
            vocabulary=self.vocabulary,
            lookahead=LookAhead(most=1),
            rows=dict(self.rows),
        )

    def adopt(self, fork: ReceivedDistributions, prefix: ExpertPrefix, *, drafted: bytes) -> None:
        """Keep what a fork has received, should the text go its way with its next tokens.

        Parameters
        ----------
        fork : ReceivedDistributions
        prefix : ExpertPrefix
            The fork's text.
        drafted : bytes
            What the fork's text has beyond this one.
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


def stacked(rows: list[ExpertTopK]) -> ExpertTopK:
    """Join several distributions into one `ExpertTopK`, filled up to the widest."""
    width = max(row.token_ids.shape[1] for row in rows)

    def joined(arrays: list[npt.NDArray[Any]], fill: float) -> npt.NDArray[Any]:
        if all(array.shape[1] == width for array in arrays):
            return np.concatenate(arrays)
        widened = [
            np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill)
            for array in arrays
        ]
        return np.concatenate(widened)

    return ExpertTopK(
        token_ids=joined([row.token_ids for row in rows], NOTHING),
        logprobs=joined([row.logprobs for row in rows], -np.inf),
        remainders=tuple(
            replace(rest, row=number) for number, row in enumerate(rows) for rest in row.remainders
        ),
    )
