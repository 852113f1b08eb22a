"""vLLM's V2 runner: requests live in slots, rows are not requests, departures go unreported."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from vllm_logits_processor.cells import FusedCells
from vllm_logits_processor.engine import FusionEngine
from vllm_logits_processor.fail_open import FailOpen
from vllm_logits_processor.request_options import RequestOptions
from vllm_logits_processor.runners.departures import (
    IDLE_S,
    KEPT_STEPS,
    MOST_TRIES,
    Departures,
    EndRule,
    IdleWatch,
    Request,
    step_runs,
)
from vllm_logits_processor.runners.sampling import is_greedy, unwanted_of
from vllm_logits_processor.runners.slot_tokens import TokenReader
from vllm_logits_processor.stream import Stream

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

#: What vLLM writes into a slot for prompt positions given as embeddings.
_EMBEDDED = 0


@dataclass(eq=False)
class _Slot:
    """A request in its slot; `stream` is None until its tokens have been read."""

    params: SamplingParams
    options: RequestOptions
    prompt_length: int
    rule: EndRule
    stream: Stream | None = None
    #: Steps in the batch whose tokens are unread, and how many of them a started read covers.
    unread: int = 0
    reading: int = 0
    tries: int = 0

    @property
    def known(self) -> int:
        return self.prompt_length + len(self.stream.output_ids) if self.stream else 0


class SlotBatch:
    """The streams of V2's batch by request slot.

    A request counts as finished when its tokens end it, or when it has been out of the batch for
    `KEPT_STEPS`. One whose slot is reused may have been preempted: it returns in any slot with its
    tokens, and continues with its stream. Requests that are not in the batch cost a step nothing;
    they are kept in the order in which they left.

    When all requests are aborted, vLLM makes no further calls. A thread of this class then reports
    the streams as ended, `idle_s` after the last step, under the lock that every step holds; not
    during a forward pass, however long. A request that continues after that, such as a paused one,
    is fused again and reported in two parts.

    Parameters
    ----------
    states : LogitsProcRequestState
        vLLM's buffers of all slots.
    max_model_len : int
        Most tokens of a prompt and its answer together.
    drafts : bool
        Whether decoding is speculative: a request then has one row more than draft tokens.
    embeddings : bool
        Whether prompts may be given as embeddings.
    most_new : int
        Most tokens that one step adds to a request.
    fail_open : FailOpen, optional
        Runs what may fail. Following the batch may not: after a lost step the slots are correct.
    """

    def __init__(
        self,
        engine: FusionEngine,
        states: LogitsProcRequestState,
        *,
        reader: TokenReader,
        max_model_len: int,
        drafts: bool,
        embeddings: bool,
        most_new: int = 1,
        fail_open: FailOpen | None = None,
        idle_s: float = IDLE_S,
    ) -> None:
        self._engine = engine
        self._states = states
        self._reader = reader
        self._max_model_len = max_model_len
        self._drafts = drafts
        self._embeddings = embeddings
        self._most_new = most_new
        self._fail_open = fail_open or FailOpen()
        self._slots: dict[int, _Slot] = {}
        self._departures = Departures(engine, fail_open=self._fail_open)
        #: Requests that were in the last step's batch or were added since, and those that this step
        #: started with.
        self._present: dict[int, _Slot] = {}
        self._here: dict[int, _Slot] = {}
        #: Slots that are not in the batch, with the step since which they are absent, oldest first.
        self._absent: dict[int, int] = {}
        self._step = 0
        self._counted: set[int] = set()
        self._reading = False
        self._read_for: dict[int, _Slot] = {}
        self._lock = threading.Lock()
        self._idle_s = idle_s
        self._active_at: float | None = None
        #: The thread of a step that has begun, until `decide` has ended it.
        self._stepping: int | None = None
        self._watch = IdleWatch(self.report_if_idle, every_s=idle_s / 2)

    @property
    def streams(self) -> dict[int, Stream]:
        """Slot to stream, for the slots that have one."""
        return {slot: each.stream for slot, each in self._slots.items() if each.stream}

    def add(self, slot: int, params: SamplingParams, options: RequestOptions) -> None:
        """Add a request; its tokens are not in the slot yet."""
        prompt_length = int(self._states.prompt_len.np[slot])
        rule = EndRule.of(params, prompt_length=prompt_length, max_model_len=self._max_model_len)
        self._replace(slot, _Slot(params, options, prompt_length, rule))

    def vacate(self, slot: int) -> None:
        """Remove the request that was in the slot before."""
        self._replace(slot, None)

    def begin(self) -> None:
        """Begin a step, before the forward pass: read new tokens and start the expert's call.

        If reading must wait for the last step's sampling, the call starts in `decide`, which runs
        while the device computes the forward pass.
        """
        with self._lock:
            self._stepping = threading.get_ident()
            self._follow()
            self._fail_open.run(self._read, otherwise=None, stage="begin", undo=self._abandon)

    def decide(self, logits: torch.Tensor, ctx: LogitsContext) -> FusedCells:
        """Join the expert's call; logits have shape (rows, vocabulary), float32.

        Called once for each part of a batch that vLLM verifies in parts.
        """
        with self._lock:
            cells = self._fail_open.run(
                partial(self._decide, logits, ctx),
                otherwise=FusedCells.none(),
                stage="decide",
                undo=self._abandon,
            )
            self._note(ctx)
            self._stepping, self._active_at = None, time.monotonic()
            return cells

    def abandon(self) -> None:
        """Abandon what a lost step had started."""
        with self._lock:
            self._abandon()

    def close(self) -> None:
        """End all streams when fusion has ended."""
        self._watch.stop()
        with self._lock:
            for slot in list(self._slots):
                self._end(slot)
            self._departures.end_all()

    def report_if_idle(self) -> None:
        """Report all streams as ended if there was no step for `idle_s`.

        A forward pass may take longer. A step without requests has none, and no `decide` either.
        """
        if not self._lock.acquire(blocking=False):
            return  # a step is under way
        try:
            last = self._active_at
            if last is None or time.monotonic() - last < self._idle_s:
                return
            if self._stepping is not None and step_runs(self._stepping):
                return
            self._active_at = None
            for stream in self.streams.values():
                self._fail_open.aside(partial(self._engine.report_stream, stream), stage="end")
            self._departures.report_all()
        finally:
            self._lock.release()

    def _replace(self, slot: int, new: _Slot | None) -> None:
        """Give a slot to a request, or free it; then handle the request that left it."""
        with self._lock:
            before, present = self._slots.pop(slot, None), slot in self._present
            self._absent.pop(slot, None)
            self._present.pop(slot, None)
            if new is not None:
                self._slots[slot] = self._present[slot] = new
                self._active_at = time.monotonic()
            if before is not None and before.stream is not None:
                leave = partial(self._leave, slot, before, before.stream, present=present)
                self._fail_open.aside(leave, stage="end")

    def _leave(self, slot: int, before: _Slot, stream: Stream, *, present: bool) -> None:
        # A slot may be reused in the step after its last token, which has not been read yet.
        output_ids, last = stream.output_ids, self._reader.leftover(slot, before.known)
        output_ids.extend(last)
        unread = not last and present
        if before.rule.ends(len(output_ids) + unread, last):
            self._engine.end_stream(stream)
        else:
            self._departures.leave(stream)

    def _follow(self) -> None:
        """Note which requests left the batch; end those that have been absent for too long."""
        self._step += 1
        self._active_at = time.monotonic()
        for slot, each in self._here.items():
            if slot not in self._present and self._slots.get(slot) is each:
                self._absent.setdefault(slot, self._step)
        while self._absent:
            slot, since = next(iter(self._absent.items()))
            if self._step - since < KEPT_STEPS:
                break
            self._end(slot)
        self._here, self._present = self._present, {}
        self._counted.clear()

    def _note(self, ctx: LogitsContext) -> None:
        """Note which requests are in the batch: a token of each will be sampled."""
        for slot in ctx.idx_mapping_np.tolist():
            each = self._slots.get(slot)
            if each is None:
                continue
            self._present[slot] = each
            self._absent.pop(slot, None)
            if slot not in self._counted:
                self._counted.add(slot)
                each.unread += 1

    def _read(self) -> None:
        if self._reading:
            # The last step sampled none of these requests.
            self._take_in()
        self._departures.step()
        here = {slot: each for slot, each in self._here.items() if self._slots.get(slot) is each}
        self._read_for = here
        wanted = {}
        for slot, each in here.items():
            first = 0 if each.stream else int(self._states.prefill_len.np[slot])
            wanted[slot] = each.known, first + self._most_new * each.unread
            each.reading = each.unread
        self._reader.begin(wanted)
        self._reading = True
        if not self._reader.waits:
            self._start()

    def _decide(self, logits: torch.Tensor, ctx: LogitsContext) -> FusedCells:
        if self._reading:
            self._start()
        rows, drafts = self._rows(logits.shape[0], ctx)
        if not rows:
            return FusedCells.none()
        cells = self._engine.decide(logits, rows, drafts)
        self._fail_open.worked()
        return cells

    def _abandon(self) -> None:
        self._reading = False
        here = [each.stream for each in self._here.values() if each.stream]
        self._engine.abandon_step(here)

    def _start(self) -> None:
        self._take_in()
        here = [
            each.stream
            for slot, each in self._here.items()
            if each.stream
            and not each.unread
            and self._slots.get(slot) is each
            # Drafts are known after the forward pass, and their call would end no sooner: `decide`
            # asks about them and the text before them in one. Only a prompt is read meanwhile.
            and not (self._drafts and each.stream.output_ids)
        ]
        self._engine.begin_step(here)

    def _take_in(self) -> None:
        """Give the streams their new tokens; end those that are finished by them."""
        self._reading = False
        for slot, tokens in self._reader.finish().items():
            each = self._slots.get(slot)
            if each is None or each is not self._read_for[slot]:
                continue  # the tokens belong to the slot's previous request
            if self._fail_open.aside(partial(self._taken, slot, each, tokens), stage="open"):
                continue
            each.tries += 1
            if each.tries >= MOST_TRIES:
                # The failure may be due to its text: leave it to the host; its neighbours continue.
                self._end(slot)

    def _taken(self, slot: int, each: _Slot, tokens: list[int]) -> None:
        if each.stream is None:
            each.stream, tokens = self._opened(each, tokens)
        each.stream.output_ids.extend(tokens)
        each.unread -= each.reading
        each.reading = 0
        if tokens and each.rule.ends(len(each.stream.output_ids), tokens):
            self._end(slot)

    def _opened(self, slot: _Slot, tokens: list[int]) -> tuple[Stream, list[int]]:
        """Return the stream of a new or returning request, and the tokens it lacks."""
        prompt_ids, output_ids = tokens[: slot.prompt_length], tokens[slot.prompt_length :]
        request = Request(
            prompt_ids=prompt_ids,
            output_ids=output_ids,
            options=slot.options,
            greedy=is_greedy(slot.params),
            unwanted=unwanted_of(slot.params),
        )
        stream = self._returning(request)
        if stream is not None:
            return stream, output_ids[len(stream.output_ids) :]
        if self._embeddings and _EMBEDDED in prompt_ids:
            request = replace(request, prompt_ids=None)
        stream = request.opened(self._engine)
        assert stream is not None  # requests for the host alone are not added
        return stream, []

    def _returning(self, request: Request) -> Stream | None:
        """Find the stream of a preempted request; it has no row now."""
        absent = {slot: self._slots[slot].stream for slot in self._absent}
        former = request.former(stream for stream in absent.values() if stream is not None)
        if former is None:
            return self._departures.take(request)
        slot = next(slot for slot, stream in absent.items() if stream is former)
        del self._slots[slot], self._absent[slot]
        return former

    def _end(self, slot: int) -> None:
        each = self._slots.pop(slot)
        self._absent.pop(slot, None)
        self._present.pop(slot, None)
        if each.stream is not None:
            self._fail_open.aside(partial(self._engine.end_stream, each.stream), stage="end")

    def _rows(
        self, count: int, ctx: LogitsContext
    ) -> tuple[dict[int, Stream], dict[int, list[int]]]:
        """Return the streams of the rows, and the draft tokens fed before them.

        A prompt that is fed in chunks has a row at the end of each chunk; only the last is sampled.
        """
        streams = {}
        for slot, seen in zip(
            ctx.idx_mapping_np.tolist(), ctx.seq_lens_upper_bound_np.tolist(), strict=True
        ):
            each = self._slots.get(slot)
            # A stream whose tokens could not be read is behind: the distribution would not fit.
            if each is None or each.stream is None or each.unread > (slot in self._counted):
                continue
            if seen >= self._states.prefill_len.np[slot]:
                streams[slot] = each.stream
        if not self._drafts:
            of_row = enumerate(ctx.idx_mapping_np.tolist()[:count])
            return {row: streams[slot] for row, slot in of_row if slot in streams}, {}
        # Only the device knows the drafts: this waits for the forward pass.
        lists = (ctx.expanded_idx_mapping, ctx.expanded_local_pos, ctx.input_ids)
        slots, offsets, fed = torch.stack([each[:count].long() for each in lists]).tolist()
        rows, drafts = {}, {}
        for row, (slot, offset) in enumerate(zip(slots, offsets, strict=True)):
            before = fed[row - offset + 1 : row + 1]
            # A negative token marks a missing draft, which is never accepted.
            if slot in streams and min(before, default=0) >= 0:
                rows[row] = streams[slot]
                if before:
                    drafts[row] = before
        return rows, drafts
