"""vLLM's V1 runner: one row per request, and a notice of every change of the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

from vllm_logits_processor.cells import FusedCells
from vllm_logits_processor.engine import FusionEngine
from vllm_logits_processor.fail_open import FailOpen
from vllm_logits_processor.request_options import RequestOptions
from vllm_logits_processor.runners.departures import MOST_TRIES, Departures, EndRule, Request
from vllm_logits_processor.runners.sampling import is_greedy, unwanted_of
from vllm_logits_processor.stream import Stream


@dataclass(eq=False)
class _Row:
    """A request in its row; `stream` is None until it is opened."""

    params: SamplingParams
    prompt_ids: list[int] | None
    output_ids: list[int]
    stream: Stream | None = None
    rule: EndRule | None = None
    tries: int = 0


class RowBatch:
    """The streams of V1's batch by row.

    Parameters
    ----------
    max_model_len : int
        Most tokens of a prompt and its answer together.
    fail_open : FailOpen, optional
        Runs what may fail. Following the batch may not: after a lost step the rows are correct.
    """

    def __init__(
        self, engine: FusionEngine, *, max_model_len: int, fail_open: FailOpen | None = None
    ) -> None:
        self._engine = engine
        self._max_model_len = max_model_len
        self._fail_open = fail_open or FailOpen()
        self._rows: dict[int, _Row] = {}
        #: Requests whose streams are not open yet, by row.
        self._new: dict[int, _Row] = {}
        self._departures = Departures(engine, fail_open=self._fail_open)

    @property
    def streams(self) -> dict[int, Stream]:
        """Row to stream, for the rows that have one."""
        return {row: each.stream for row, each in self._rows.items() if each.stream}

    def begin(self, update: BatchUpdate | None) -> None:
        """Follow the batch, then start the expert's call, before the forward pass."""
        if update is not None:
            self._follow(update)
        self._fail_open.run(self._start, otherwise=None, stage="begin", undo=self.abandon)

    def decide(self, logits: torch.Tensor) -> FusedCells:
        """Join the expert's call; logits have shape (requests, vocabulary), float32."""
        streams = self.streams
        if not streams:
            return FusedCells.none()
        cells = self._engine.decide(logits, streams)
        self._fail_open.worked()
        return cells

    def abandon(self) -> None:
        """Abandon what a lost step had started."""
        self._engine.abandon_step(list(self.streams.values()))

    def close(self) -> None:
        """End all streams when fusion has ended."""
        for each in self._rows.values():
            self._leave(each)
        self._rows, self._new = {}, {}
        self._departures.end_all()

    def _start(self) -> None:
        self._departures.step()
        for row, each in list(self._new.items()):
            if self._fail_open.aside(partial(self._open, row, each), stage="open"):
                del self._new[row]
                continue
            each.tries += 1
            if each.tries >= MOST_TRIES:
                # The failure may be due to its text: leave it to the host; its neighbours continue.
                del self._new[row], self._rows[row]
        self._engine.begin_step(list(self.streams.values()))

    def _follow(self, update: BatchUpdate) -> None:
        """Apply removals, additions and moves, in this order, as vLLM prescribes.

        Updates all rows first; opens and ends streams once the rows are correct.
        """
        gone: list[_Row | None] = []
        rows = self._rows
        for row in update.removed:
            gone.append(rows.pop(row, None))
        for row, params, prompt_ids, output_ids in update.added:
            gone.append(rows.pop(row, None))
            rows[row] = _Row(params, prompt_ids, output_ids)
        for first, second, direction in update.moved:
            moving, replaced = rows.pop(first, None), rows.pop(second, None)
            if moving is not None:
                rows[second] = moving
            if replaced is None:
                continue
            if direction == MoveDirectionality.SWAP:
                rows[first] = replaced
            else:
                # vLLM gives no notice of a removal if another row fills the gap immediately.
                gone.append(replaced)
        self._new = {row: each for row, each in rows.items() if each.stream is None}
        for each in gone:
            if each is not None:
                self._leave(each)
        if not update.batch_size:
            self._departures.end_all()

    def _leave(self, each: _Row) -> None:
        """End a stream whose tokens finish it; keep one that may return."""
        stream, rule = each.stream, each.rule
        if stream is None or rule is None:
            return
        ends = rule.ends(len(stream.output_ids), stream.output_ids[-1:])
        then: Callable[[Stream], None] = self._engine.end_stream if ends else self._departures.leave
        self._fail_open.aside(partial(then, stream), stage="end")

    def _open(self, row: int, each: _Row) -> None:
        """Give a request its stream, its former one if it returns.

        Requests for the host alone are removed.
        """
        request = Request(
            prompt_ids=each.prompt_ids,
            output_ids=each.output_ids,
            options=RequestOptions.from_extra_args(each.params.extra_args),
            greedy=is_greedy(each.params),
            unwanted=unwanted_of(each.params),
        )
        stream = self._departures.take(request)
        if stream is None:
            stream = request.opened(self._engine)
        if stream is None:
            del self._rows[row]
            return
        # With asynchronous scheduling the request returns with a new list, which is to be read.
        stream.output_ids = each.output_ids
        each.rule = EndRule.of(
            each.params,
            prompt_length=len(each.prompt_ids or ()),
            max_model_len=self._max_model_len,
        )
        each.stream = stream
