"""The requests to the expert in one step: one for all places that its streams need."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from vllm_logits_processor.alignment.covers import wanted_of_all
from vllm_logits_processor.alignment.prefix import TokenIds
from vllm_logits_processor.alignment.unknown import is_text
from vllm_logits_processor.config import FloeConfig
from vllm_logits_processor.expert.calls import ExpertCalls, Kind
from vllm_logits_processor.expert.lookahead import Place
from vllm_logits_processor.stream import ExpertAsked, Stream


@dataclass
class _Batch:
    """The prompts of one request to one of the expert's models, and their streams."""

    prompts: list[TokenIds] = field(default_factory=list)
    row_of: dict[tuple[int, bytes], int] = field(default_factory=dict)
    now: list[tuple[Stream, tuple[tuple[Place, int], ...]]] = field(default_factory=list)
    later: list[tuple[Stream, tuple[tuple[Place, int], ...]]] = field(default_factory=list)
    steps: int = 1

    def add(self, stream: Stream, places: Sequence[Place], *, ahead: bool = False) -> None:
        rows = tuple([(place, self._row(place.token_ids)) for place in places])
        (self.later if ahead else self.now).append((stream, rows))
        lookahead = stream.received.lookahead
        if lookahead.most > 1:
            self.steps = max(self.steps, lookahead.steps)

    def _row(self, prompt: TokenIds) -> int:
        """Return the row of a prompt; drafts and samples of one prompt share a row."""
        row = self.row_of.setdefault(prompt.key, len(self.prompts))
        if row == len(self.prompts) or self.prompts[row] != prompt:
            row = len(self.prompts)
            self.prompts.append(prompt)
        return row


class ExpertRequests:
    """Starts the calls of a step and processes their replies.

    Parameters
    ----------
    covers : int
        Most additional places per position and stream, for text that ends inside an expert token.
    by_text : bool
        Whether the expert is given the text as it is, which must then be text.
    """

    def __init__(
        self, calls: ExpertCalls, *, config: FloeConfig, covers: int, by_text: bool = False
    ) -> None:
        self._calls = calls
        self._config = config
        self.covers = covers
        self._by_text = by_text

    def take_in(self, stream: Stream) -> None:
        """Process what has arrived for a stream since the last step."""
        if stream.ahead is not None:
            self._take_in_ahead(stream)
        if stream.first is not None and not stream.drafted:
            self._take_in_first(stream)

    def begin(self, streams: Sequence[Stream], *, host_is_unsure: bool) -> None:
        """Start one call per expert model for the places that the streams need.

        Parameters
        ----------
        streams : sequence of Stream
            Those whose current position is undecided and whose text may leave, after `take_in`.
        host_is_unsure : bool
            Whether the host is known to be unsure of these positions. A configuration that calls
            the expert only in that case leaves them undecided until then.
        """
        # Decoding comes first: if a breaker admits one call, this kind tells most about the server.
        longest = self._longest()
        batches: dict[Kind, dict[str, _Batch]] = {"now": {}, "first": {}}
        offsets_of = wanted_of_all(
            [(stream.prefix, stream.received.rows) for stream in streams], most=self.covers
        )
        for stream, offsets in zip(streams, offsets_of, strict=True):
            kind: Kind = "now" if stream.read else "first"
            model = stream.options.expert_model or self._config.expert.model
            batch = batches[kind].get(model)
            if batch is None:
                batch = batches[kind][model] = _Batch()
            prefix = stream.prefix
            wanted = [Place(offset, prefix.token_ids_to(offset)) for offset in offsets]
            if not wanted:
                stream.ready = stream.prefix.length in stream.received.rows
                # An expert cannot continue an empty text without a BOS token.
                stream.declined = None if stream.ready else "no-prompt"
            elif self._by_text and not is_text(stream.text):
                stream.declined = "mid-character"
            elif longest < math.inf and max(len(place.token_ids) for place in wanted) > longest:
                # A single such prompt makes the server refuse the request of all streams.
                stream.declined = "too-long"
            elif stream.first is not None:
                stream.declined = "open" if stream.first.call.probe else "reading"
            elif stream.meets_ahead(wanted):
                assert stream.pending is not None
                self._calls.renew(stream.pending.call, deadline_s=self._config.deadline_ms / 1000)
            elif self._spent(stream):
                stream.declined = "budget"
            elif host_is_unsure or self._config.ask == "always":
                batch.add(stream, wanted)
            place = self._worth_asking_ahead(stream)
            if place and len(place.token_ids) <= longest:
                batch.add(stream, [place], ahead=True)
        for kind, of_models in batches.items():
            for model, batch in of_models.items():
                if batch.prompts:
                    self._start(model, batch, kind=kind if batch.now else "ahead")

    def join(self, stream: Stream) -> tuple[float, int, int]:
        """Wait for the stream's pending call until its deadline and process its reply.

        A first call is awaited like any other in the step that starts it; a later reply is
        processed when a step begins.

        Returns
        -------
        tuple of (float, int, int)
            Milliseconds waited; the stream's shares of the bytes of request and reply.
        """
        if stream.pending is None:
            return 0.0, 0, 0
        begun = time.monotonic()
        pending, stream.pending = stream.pending, None
        outcome = self._calls.settle(pending.call)
        waited_ms = (time.monotonic() - begun) * 1000
        # If only covers failed, the distribution at the end of the text is used without them.
        stream.ready = outcome == "answered" or stream.prefix.length in stream.received.rows
        in_flight = outcome in ("reading", "open") and not pending.call.future.done()
        if stream.first is pending and not in_flight:
            stream.first = None
        elif stream.first is not pending and in_flight:
            # A probe, which only informs the breaker; or a text that does not exist yet.
            self._calls.abandon(pending.call)
        if outcome != "answered":
            stream.declined = None if stream.ready else outcome
            self._note_skipped(stream, outcome)
            return waited_ms, 0, 0
        stream.read, reply = True, pending.call.reply
        assert reply is not None  # it is there once a call is answered
        # The end of the text comes last: its continuation is the one to follow.
        for place, row in reversed(pending.rows):
            stream.received.receive(place, reply.continuations[row])
        # The bytes of a batched body are divided evenly among the prompts of the call.
        share = min(1.0, len(pending.rows) / len(reply.continuations))
        return waited_ms, round(reply.sent_bytes * share), round(reply.received_bytes * share)

    def _start(self, model: str, batch: _Batch, *, kind: Kind) -> None:
        call = self._calls.start(
            batch.prompts,
            model=model,
            deadline_s=self._config.deadline_ms / 1000,
            life_s=self._config.first_deadline_ms / 1000,
            steps=batch.steps,
            kind=kind,
        )
        for stream, rows in batch.now:
            if isinstance(call, str):
                stream.declined = call
                self._note_skipped(stream, call)
                continue
            stream.pending = ExpertAsked(call, rows)
            if kind == "first" and not stream.drafted:
                stream.first = stream.pending
        if not isinstance(call, str):
            for stream, rows in batch.later:
                stream.ahead = ExpertAsked(call, rows)

    def _note_skipped(self, stream: Stream, outcome: str) -> None:
        """Have the whole text read again: a server that failed may have been restarted."""
        if outcome == "open":
            stream.read = False

    def abandon(self, stream: Stream) -> None:
        """Abandon the calls of a stream that has ended."""
        for asked in (stream.pending, stream.ahead, stream.first):
            if asked is not None:
                self._calls.abandon(asked.call)
        stream.pending = stream.ahead = stream.first = None

    def _longest(self) -> float:
        """Return the most tokens that a text may have when it is sent.

        A call requests as many tokens after it as the stream that looks ahead furthest.
        """
        expert = self._config.expert
        # A server says how long a text may be once it is there.
        return (expert.context or self._calls.context or math.inf) - expert.lookahead

    def _spent(self, stream: Stream) -> bool:
        budget = self._config.answer_budget_ms
        return budget is not None and stream.summary.waited_ms >= budget

    def _worth_asking_ahead(self, stream: Stream) -> Place | None:
        """Return the place for which to call the expert ahead, or None."""
        received = stream.received
        if not stream.read or received.lookahead.most == 1:
            return None
        if not received.lookahead.worth_asking_ahead or stream.ahead is not None or stream.pending:
            return None
        # Whether the host will be unsure there is not known yet.
        if self._config.ask != "always" or self._spent(stream) or self._calls.crowded:
            return None
        return received.end if received.places_ahead <= received.lookahead.steps // 2 else None

    def _take_in_ahead(self, stream: Stream) -> None:
        """Process the reply to a call that was started ahead, if it has arrived."""
        asked = stream.ahead
        if asked is None:
            return
        ((place, row),) = asked.rows
        prefix = stream.prefix
        if prefix.length == place.offset and prefix.token_ids() == place.token_ids:
            # The text has reached the place: the call becomes the pending one if it is needed.
            return
        if not stream.received.leads_to(place):
            stream.ahead = None
            self._calls.abandon(asked.call)
            return
        if not asked.call.future.done():
            return
        stream.ahead = None
        self._calls.renew(asked.call, deadline_s=0.0)
        if self._calls.settle(asked.call) == "answered":
            stream.received.receive_ahead(place, asked.call.future.result().continuations[row])

    def _take_in_first(self, stream: Stream) -> None:
        """Process the reply to the call by which the expert reads a text, if it has arrived."""
        asked = stream.first
        # In the step that starts it, `join` does this.
        if asked is None or stream.pending is asked:
            return
        outcome = self._calls.settle(asked.call)
        if outcome == "reading" or (outcome == "open" and not asked.call.future.done()):
            return
        stream.first = None
        if outcome != "answered":
            return
        stream.read = True
        reply = asked.call.future.result()
        # The places belong to a text that has grown since.
        for place, row in reversed(asked.rows):
            since = bytes(stream.text[len(stream.text) - (stream.prefix.length - place.offset) :])
            stream.received.receive_late(
                place,
                reply.continuations[row],
                since=since if stream.prefix.length > place.offset else b"",
                prefix=stream.prefix,
            )
