"""vLLM's V2 runner: requests live in slots, rows are not requests, and nobody says who leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vllm_logits_processor.engine import FusionEngine
from vllm_logits_processor.fusion import FusedCells
from vllm_logits_processor.processor_leaving import KEPT_STEPS, Departures, EndRule
from vllm_logits_processor.processor_tokens import TokenReader
from vllm_logits_processor.request import RequestOptions
from vllm_logits_processor.stream import Stream

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

#: What vLLM writes into a slot where the prompt is given as an embedding.
_EMBEDDED = 0


@dataclass
class _Slot:
    """A request in its slot; `stream` is None until its tokens have been read."""

    params: SamplingParams
    options: RequestOptions
    prompt_length: int
    rule: EndRule
    stream: Stream | None = None
    #: Steps since it was last in the batch; 0 while it is.
    absent: int = 0

    @property
    def known(self) -> int:
        return self.prompt_length + len(self.stream.output_ids) if self.stream else 0


class SlotBatch:
    """The streams of V2's batch by request slot.

    A request is taken for finished when its tokens say so, or when it has been out of the batch for
    `KEPT_STEPS`. One whose slot is taken by another may have been preempted: it then comes back in
    any slot with the tokens it had, and goes on with its stream.

    Parameters
    ----------
    engine : FusionEngine
    states : LogitsProcRequestState
        vLLM's buffers of all slots.
    reader : TokenReader
    max_model_len : int
        Most tokens of a prompt and its answer together.
    drafts : bool
        True under speculative decoding, where a request has one row per draft token and one more.
    embeddings : bool
        True where prompts may be given as embeddings.
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
    ) -> None:
        self._engine = engine
        self._states = states
        self._reader = reader
        self._max_model_len = max_model_len
        self._drafts = drafts
        self._embeddings = embeddings
        self._slots: dict[int, _Slot] = {}
        self._departures = Departures(engine)
        #: Slots that were in the last step's batch or have come since.
        self._present: set[int] = set()
        self._reading = False
        self._read_for: dict[int, _Slot] = {}

    @property
    def streams(self) -> dict[int, Stream]:
        """Slot to stream, for the slots that have one."""
        return {slot: each.stream for slot, each in self._slots.items() if each.stream}

    def add(self, slot: int, params: SamplingParams, options: RequestOptions) -> None:
        """Take in a request; its tokens are not in the slot yet."""
        self.vacate(slot)
        prompt_length = int(self._states.prompt_len.np[slot])
        rule = EndRule.of(params, prompt_length=prompt_length, max_model_len=self._max_model_len)
        self._slots[slot] = _Slot(params, options, prompt_length, rule)
        self._present.add(slot)

    def vacate(self, slot: int) -> None:
        """Let go of the request that was in the slot before."""
        before = self._slots.pop(slot, None)
        if before is None or before.stream is None:
            return
        # A slot may be given away in the step after the last token, which nobody has read yet.
        output_ids, last = before.stream.output_ids, self._reader.leftover(slot, before.known)
        output_ids.extend(last)
        unread = not last and slot in self._present
        if before.rule.ends(len(output_ids) + unread, last):
            self._engine.end_stream(before.stream)
        else:
            self._departures.leave(before.stream)

    def begin(self) -> None:
        """Begin a step, before the forward pass: read new tokens, and start the expert's call.

        Where reading has to wait for the last step's sampling, the call starts in `decide`, which
        runs while the device computes the forward pass.
        """
        if self._reading:
            # The last step sampled none of these requests: its tokens were not called for.
            self._take_in()
        self._departures.step()
        for slot, each in list(self._slots.items()):
            each.absent = 0 if slot in self._present else each.absent + 1
            if each.absent > KEPT_STEPS:
                self._end(slot)
        self._present.clear()
        self._read_for = dict(self._slots)
        self._reader.begin({slot: each.known for slot, each in self._slots.items()})
        self._reading = True
        if not self._reader.waits:
            self._start()

    def decide(self, logits: torch.Tensor, ctx: LogitsContext) -> FusedCells:
        """Join the expert's call; logits of shape (rows, vocabulary), float32.

        Called again for each part of a batch that vLLM verifies in parts.
        """
        if self._reading:
            self._start()
        self._present.update(ctx.idx_mapping_np.tolist())
        rows, drafts = self._rows(logits.shape[0], ctx)
        return self._engine.decide(logits, rows, drafts) if rows else FusedCells.none()

    def _start(self) -> None:
        self._take_in()
        here = [each.stream for each in self._slots.values() if each.stream and not each.absent]
        self._engine.begin_step(here)

    def _take_in(self) -> None:
        """Give the streams their new tokens; a stream that is finished by them ends."""
        self._reading = False
        for slot, tokens in self._reader.finish().items():
            each = self._slots.get(slot)
            if each is None or each is not self._read_for[slot]:
                continue  # the tokens are of a request that was there before
            if each.stream is None:
                each.stream, tokens = self._opened(each, tokens)
            each.stream.output_ids.extend(tokens)
            if tokens and each.rule.ends(len(each.stream.output_ids), tokens):
                self._end(slot)

    def _opened(self, slot: _Slot, tokens: list[int]) -> tuple[Stream, list[int]]:
        """Return the stream of a request that comes or comes back, and the tokens it lacks."""
        prompt_ids, output_ids = tokens[: slot.prompt_length], tokens[slot.prompt_length :]
        stream = self._returning(slot, prompt_ids, output_ids) if output_ids else None
        if stream is not None:
            return stream, output_ids[len(stream.output_ids) :]
        embedded = self._embeddings and _EMBEDDED in prompt_ids
        stream = self._engine.new_stream(None if embedded else prompt_ids, output_ids, slot.options)
        assert stream is not None  # requests that are the host's are not added
        return stream, []

    def _returning(
        self, slot: _Slot, prompt_ids: list[int], output_ids: list[int]
    ) -> Stream | None:
        """Find the stream that a preempted request had: the same text and options, and no row."""

        def fits(stream: Stream) -> bool:
            known = stream.output_ids
            return (
                stream.options == slot.options
                and stream.prompt_ids == prompt_ids
                and output_ids[: len(known)] == known
            )

        for other, each in self._slots.items():
            if each.absent and each.stream is not None and fits(each.stream):
                del self._slots[other]
                return each.stream
        return self._departures.take(fits)

    def _end(self, slot: int) -> None:
        each = self._slots.pop(slot)
        if each.stream is not None:
            self._engine.end_stream(each.stream)

    def _rows(
        self, count: int, ctx: LogitsContext
    ) -> tuple[dict[int, Stream], dict[int, list[int]]]:
        """Return the streams of the rows, and the draft tokens fed before them.

        A prompt that is fed in chunks has a row at the end of each; only the last one is sampled.
        """
        partial = {
            slot
            for slot, seen in zip(
                ctx.idx_mapping_np.tolist(), ctx.seq_lens_upper_bound_np.tolist(), strict=True
            )
            if seen < self._states.prefill_len.np[slot]
        }
        streams = {slot: each for slot, each in self.streams.items() if slot not in partial}
        if not self._drafts:
            of_row = enumerate(ctx.idx_mapping_np.tolist()[:count])
            return {row: streams[slot] for row, slot in of_row if slot in streams}, {}
        # Drafts are known to the device alone: this waits for the forward pass.
        slots = ctx.expanded_idx_mapping[:count].tolist()
        offsets = ctx.expanded_local_pos[:count].tolist()
        fed = ctx.input_ids[:count].tolist()
        rows, drafts = {}, {}
        for row, (slot, offset) in enumerate(zip(slots, offsets, strict=True)):
            before = fed[row - offset + 1 : row + 1]
            # A negative token stands for a draft that is not there and will not be taken.
            if slot in streams and min(before, default=0) >= 0:
                rows[row] = streams[slot]
                if before:
                    drafts[row] = before
        return rows, drafts
