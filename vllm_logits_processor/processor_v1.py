"""vLLM's V1 runner: one row per request, and every change of the batch is announced."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

from vllm_logits_processor.engine import FusionEngine
from vllm_logits_processor.fusion import FusedCells
from vllm_logits_processor.processor_leaving import Departures, EndRule
from vllm_logits_processor.request import RequestOptions
from vllm_logits_processor.stream import Stream


@dataclass(frozen=True)
class _Row:
    stream: Stream
    rule: EndRule


class RowBatch:
    """The streams of V1's batch by row.

    Parameters
    ----------
    engine : FusionEngine
    max_model_len : int
        Most tokens of a prompt and its answer together.
    """

    def __init__(self, engine: FusionEngine, *, max_model_len: int) -> None:
        self._engine = engine
        self._max_model_len = max_model_len
        self._rows: dict[int, _Row] = {}
        self._departures = Departures(engine)

    @property
    def streams(self) -> dict[int, Stream]:
        """Row to stream, for the rows that have one."""
        return {row: each.stream for row, each in self._rows.items()}

    def begin(self, update: BatchUpdate | None) -> None:
        """Follow the batch, then start the expert's call: the forward pass comes next."""
        if update is not None:
            self._follow(update)
        self._departures.step()
        self._engine.begin_step(list(self.streams.values()))

    def decide(self, logits: torch.Tensor) -> FusedCells:
        """Join the expert's call; logits of shape (requests, vocabulary), float32."""
        return self._engine.decide(logits, self.streams) if self._rows else FusedCells.none()

    def _follow(self, update: BatchUpdate) -> None:
        """Apply removals, additions and moves, in this order, as vLLM prescribes."""
        for row in update.removed:
            self._leave(row)
        for row, params, prompt_ids, output_ids in update.added:
            self._leave(row)
            stream = self._stream(params, prompt_ids, output_ids)
            if stream is not None:
                rule = EndRule.of(
                    params,
                    prompt_length=len(prompt_ids or ()),
                    max_model_len=self._max_model_len,
                )
                self._rows[row] = _Row(stream, rule)
        for first, second, direction in update.moved:
            moving, replaced = self._rows.pop(first, None), self._rows.pop(second, None)
            if moving is not None:
                self._rows[second] = moving
            if replaced is None:
                continue
            if direction == MoveDirectionality.SWAP:
                self._rows[first] = replaced
            else:
                # vLLM does not announce a removal that it fills with another row at once.
                self._away(replaced)
        if not update.batch_size:
            self._departures.end_all()

    def _leave(self, row: int) -> None:
        each = self._rows.pop(row, None)
        if each is not None:
            self._away(each)

    def _away(self, each: _Row) -> None:
        """End a stream that is finished by its tokens; keep one that may come back."""
        output_ids = each.stream.output_ids
        if each.rule.ends(len(output_ids), output_ids[-1:]):
            self._engine.end_stream(each.stream)
        else:
            self._departures.leave(each.stream)

    def _stream(
        self, params: SamplingParams, prompt_ids: list[int] | None, output_ids: list[int]
    ) -> Stream | None:
        """Return the stream of a request that comes, or comes back with the very same list."""
        stream = self._departures.take(lambda kept: kept.output_ids is output_ids)
        if stream is not None:
            return stream
        options = RequestOptions.from_extra_args(params.extra_args)
        return self._engine.new_stream(prompt_ids, output_ids, options)
