"""One decoding step, from the text so far to fused logits. Knows nothing of vLLM.

begin_step: take in new tokens ─► may the text leave? ─► one call per expert model
(the host's forward pass runs meanwhile)
finish_step: join until the deadline ─► align ─► weigh ─► add to the logits
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from floe_plugins.gate import Gate
from floe_plugins.routers import Router
from vllm_logits_processor.alignment.maps import AlignmentMaps
from vllm_logits_processor.alignment.prefix import ExpertPrefix
from vllm_logits_processor.alignment.reweigh import align
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.config import FloeConfig
from vllm_logits_processor.experts.breaker import CircuitBreaker
from vllm_logits_processor.experts.calls import Expert, ExpertCalls
from vllm_logits_processor.fusion import fuse, weigh
from vllm_logits_processor.guard import StreamGuard
from vllm_logits_processor.request import RequestOptions
from vllm_logits_processor.stream import PendingWord, SpokenWord, Stream, stacked
from vllm_logits_processor.trace import Trace, TraceLine


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The two models as alignment sees them."""

    host: ByteVocabulary
    expert: ByteVocabulary
    maps: AlignmentMaps


class FusionEngine:
    """Runs the steps of all streams of one vLLM worker.

    Parameters
    ----------
    config : FloeConfig
    pair : Pair
    expert : Expert
    router : Router
    gate : Gate or None
        None for a trusted expert.
    """

    def __init__(
        self, *, config: FloeConfig, pair: Pair, expert: Expert, router: Router, gate: Gate | None
    ) -> None:
        self._config = config
        self._pair = pair
        self._router = router
        self._gate = gate
        self._calls = ExpertCalls(
            expert,
            breaker=CircuitBreaker(
                threshold=config.breaker_failures, cooldown_s=config.breaker_cooldown_s
            ),
        )
        self._trace = Trace(config.trace_file)

    def new_stream(
        self, prompt_ids: Sequence[int] | None, output_ids: list[int], options: RequestOptions
    ) -> Stream | None:
        """Return the state of a request, or None where the expert is never to be asked."""
        mode = self._config.default_mode if options.mode == "auto" else options.mode
        if mode == "host":
            return None
        return Stream(
            host=self._pair.host,
            prompt_ids=prompt_ids,
            output_ids=output_ids,
            options=options,
            guard=StreamGuard(self._gate),
            prefix=ExpertPrefix(self._pair.expert),
        )

    def begin_step(self, streams: Sequence[Stream]) -> None:
        """Take in new tokens and start one call per expert model for the streams that need a word.

        Streams whose last token is not known yet are left for a second call, in `finish_step`.
        """
        asking: dict[str, list[Stream]] = {}
        for stream in streams:
            if stream.waits_for_token:
                continue
            stream.advance()
            if stream.pending is None and stream.word is None:
                stream.declined = _reason_not_to_ask(stream)
                if stream.declined is None:
                    model = stream.options.expert_model or self._config.expert.model
                    asking.setdefault(model, []).append(stream)
        for model, group in asking.items():
            self._ask(model, group)

    def finish_step(self, logits: torch.Tensor, streams: Mapping[int, Stream]) -> None:
        """Fuse, in place, the rows whose expert has answered in time; leave all others as they are.

        Parameters
        ----------
        logits : torch.Tensor, shape (batch, vocabulary), float32
        streams : mapping of row to Stream
            Rows without a stream are the host's.

        Raises
        ------
        RuntimeError
            If the engine still hides the last sampled token of a stream.
        """
        hidden = [stream for stream in streams.values() if stream.waits_for_token]
        if hidden:
            raise RuntimeError(
                "Floe cannot see the last sampled token: vLLM's asynchronous scheduling hides it "
                "from processors that are not named with --logits-processors. Start the server "
                "with --logits-processors vllm_logits_processor:FloeLogitsProcessor, or with "
                "--no-async-scheduling."
            )
        # Streams whose token was hidden when the step began are asked for now.
        self.begin_step([stream for stream in streams.values() if stream.needs_call])
        lines = {row: self._join(stream) for row, stream in streams.items()}
        words = {row: stream.word for row, stream in streams.items() if stream.word is not None}
        if words:
            self._fuse(logits, words, streams, lines)
        self._trace.write(list(lines.values()))

    def _ask(self, model: str, streams: list[Stream]) -> None:
        """Start one call for `streams`."""
        first = any(stream.position == 0 for stream in streams)
        wait_ms = self._config.first_deadline_ms if first else self._config.deadline_ms
        call = self._calls.start(
            [stream.prefix.token_ids() for stream in streams],
            model=model,
            deadline_s=wait_ms / 1000,
        )
        for row, stream in enumerate(streams):
            if isinstance(call, str):
                stream.declined = call
            else:
                stream.pending = PendingWord(call=call, row=row)

    def _join(self, stream: Stream) -> TraceLine:
        """Wait for this stream's word until its deadline; say what came of it."""
        begun = time.monotonic()
        if stream.pending is not None:
            outcome = self._calls.settle(stream.pending.call)
            if outcome == "answered":
                stream.receive(stream.pending.call.future.result())
            else:
                stream.pending, stream.declined = None, outcome
        word = stream.word
        return TraceLine(
            label=stream.options.label,
            position=stream.position,
            outcome=stream.declined or "fused",
            waited_ms=(time.monotonic() - begun) * 1000,
            sent_bytes=word.sent_bytes if word else 0,
            received_bytes=word.received_bytes if word else 0,
        )

    def _fuse(
        self,
        logits: torch.Tensor,
        words: Mapping[int, SpokenWord],
        streams: Mapping[int, Stream],
        lines: dict[int, TraceLine],
    ) -> None:
        """Align, weigh and add, for all rows with a word at once; note the weights in `lines`."""
        rows = np.fromiter(words, dtype=np.int64)
        aligned = align(logits, rows, stacked(list(words.values())), self._pair.maps)
        evidence = np.array([streams[row].evidence.value for row in words])
        weights = weigh(self._router, aligned, evidence)
        fuse(logits, rows, aligned, weights)
        for place, row in enumerate(words):
            if aligned.feasible[place]:
                streams[row].weighed(aligned, place)
            lines[row] = replace(
                lines[row],
                outcome="fused" if aligned.feasible[place] else "infeasible",
                expert_weight=float(weights.expert[place]),
            )


def _reason_not_to_ask(stream: Stream) -> str | None:
    if stream.prompt_ids is None:
        return "no-prompt"
    return None if stream.guard.clears(stream.text) else "private"
