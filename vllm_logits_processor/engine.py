"""One decoding step, from the text so far to fused logits; independent of vLLM.

begin_step: take in new tokens ─► may the text leave? ─► one call per expert model
(the host's forward pass runs meanwhile)
decide: join until the deadline ─► align ─► weigh ─► the cells of the logits that change
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from floe_plugins.errors import FloeError
from floe_plugins.gate import Gate
from floe_plugins.routers import Router
from vllm_logits_processor.alignment.align import align
from vllm_logits_processor.alignment.covers import Covered, covered_of_all
from vllm_logits_processor.alignment.maps import AlignmentMaps
from vllm_logits_processor.alignment.prefix import ExpertPrefix
from vllm_logits_processor.alignment.prompt import Conversation
from vllm_logits_processor.alignment.remainders import stacked_with_remainders
from vllm_logits_processor.alignment.unknown import is_unknown
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.cells import FusedCells
from vllm_logits_processor.config import FloeConfig
from vllm_logits_processor.evidence import PromptScorer
from vllm_logits_processor.expert.call_times import CallTimes
from vllm_logits_processor.expert.calls import ExpertCalls
from vllm_logits_processor.expert.lookahead import LookAhead, ReceivedDistributions
from vllm_logits_processor.expert.pool import ExpertPool
from vllm_logits_processor.expert_requests import ExpertRequests
from vllm_logits_processor.fusion import fused_cells, weigh
from vllm_logits_processor.observe import FusionMetrics, StreamSummary, Trace, TraceLine
from vllm_logits_processor.privacy import StreamPrivacy
from vllm_logits_processor.request_options import RequestOptions
from vllm_logits_processor.step_factors import StepFactors
from vllm_logits_processor.stream import Stream
from vllm_logits_processor.sureness import host_is_unsure


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The two models as alignment sees them."""

    host: ByteVocabulary
    expert: ByteVocabulary
    maps: AlignmentMaps
    conversation: Conversation


class HiddenTokenError(FloeError):
    """vLLM hides the last sampled token from the processor."""


class FusionEngine:
    """Runs the steps of all streams of one vLLM worker.

    Parameters
    ----------
    gate : Gate or None
        None for an expert that may see everything.
    scorer : PromptScorer, optional
        Without it, streams begin without evidence.
    times : CallTimes, optional
        How long calls take, if that is known before the first.
    """

    def __init__(
        self,
        *,
        config: FloeConfig,
        pair: Pair,
        expert: ExpertPool,
        router: Router,
        gate: Gate | None,
        metrics: FusionMetrics,
        scorer: PromptScorer | None = None,
        times: CallTimes | None = None,
    ) -> None:
        self._config = config
        self._pair = pair
        self._expert = expert
        self._router = router
        self._gate = gate
        self._metrics = metrics
        self._scorer = scorer
        self._times = times or CallTimes(deadline_s=config.deadline_ms / 1000)
        calls = ExpertCalls(expert, on_settled=metrics.observe_call, times=self._times)
        by_text = is_unknown(pair.expert)
        # A text never ends inside its own tokens; nobody knows where those of an unknown tokenizer
        # end.
        covers = 0 if by_text or pair.host.equals(pair.expert) else config.covers
        self._requests = ExpertRequests(calls, config=config, covers=covers, by_text=by_text)
        self._trace = Trace(config.trace_file)
        #: Streams of the draft rows of the step under way.
        self._forks: list[Stream] = []

    @property
    def metrics(self) -> FusionMetrics:
        """The engine's counters."""
        return self._metrics

    def new_stream(
        self,
        prompt_ids: Sequence[int] | None,
        output_ids: list[int],
        options: RequestOptions,
        *,
        greedy: bool = False,
        unwanted: tuple[int, ...] = (),
    ) -> Stream | None:
        """Return the state of a request, or None if it is never fused.

        Parameters
        ----------
        prompt_ids : sequence of int or None
            Host tokens of the prompt; None for a prompt of embeddings. One that mixes both counts
            as embeddings.
        output_ids : list of int
            The caller's own list of the answer's tokens, which is read as it grows. A request that
            returns to the batch may have some already.
        greedy : bool
            True if the likeliest token of each row is taken, and none is drawn.
        unwanted : tuple of int, optional
            Host tokens that the expert makes no likelier.
        """
        if not self._config.fuses(options.mode):
            return None
        if prompt_ids is not None and max(prompt_ids, default=0) >= len(self._pair.host):
            # Ids beyond the tokenizer's stand for embeddings.
            prompt_ids = None
        expert = self._pair.expert
        opening = self._pair.conversation.opening(prompt_ids or ())
        prefix = ExpertPrefix(expert, opening.front)
        prefix.extend(opening.text)
        text = bytearray(self._pair.host.decode(prompt_ids or ()))
        return Stream(
            host=self._pair.host,
            prompt_ids=prompt_ids,
            output_ids=output_ids,
            options=options,
            privacy=StreamPrivacy(self._gate, prompt_bytes=len(text)),
            prefix=prefix,
            received=ReceivedDistributions(
                vocabulary=expert,
                lookahead=LookAhead(most=self._config.expert.lookahead, times=self._times),
            ),
            text=text,
            greedy=greedy,
            unwanted=unwanted,
        )

    def begin_step(self, streams: Sequence[Stream]) -> None:
        """Add new tokens and start the calls for the next positions.

        `decide` starts the calls for streams whose last token is not known yet, and for all streams
        if the expert is called only where the host is unsure.
        """
        self._ask(streams, host_is_unsure=False)

    def decide(
        self,
        logits: torch.Tensor,
        streams: Mapping[int, Stream],
        drafts: Mapping[int, Sequence[int]] | None = None,
    ) -> FusedCells:
        """Join the calls and fuse the rows whose expert has answered in time.

        Parameters
        ----------
        logits : torch.Tensor, shape (rows, vocabulary), float32
            Not changed.
        streams : mapping of row to Stream
            Rows without a stream keep the host's logits.
        drafts : mapping of row to sequence of int, optional
            Draft tokens of the host before a row, beyond the stream's own (speculative decoding).
            A stream then has several rows.

        Returns
        -------
        FusedCells
            The changes to `logits`; every rank writes the same.

        Raises
        ------
        HiddenTokenError
            vLLM still hides the last sampled token of a stream.
        """
        if any(stream.waits_for_token for stream in streams.values()):
            raise HiddenTokenError(
                "Floe cannot see the last sampled token: vLLM's asynchronous scheduling hides it "
                "from processors that are not named with --logits-processors. Start the server "
                "with --logits-processors vllm_logits_processor:FloeLogitsProcessor, or with "
                "--no-async-scheduling."
            )
        before = {row: tuple(tokens) for row, tokens in (drafts or {}).items() if tokens}
        # Committed texts come first: a fork starts with their distributions. One call has both.
        asking = self._asking(list(streams.values()))
        at = {
            row: stream.forked(before[row]) if row in before else stream
            for row, stream in streams.items()
        }
        self._forks = [at[row] for row in before]
        asking += self._asking(self._forks)
        self._requests.begin(asking, host_is_unsure=False)
        if self._config.ask != "always":
            self._ask_where_unsure(logits, at)
        lines = {row: self._join(stream) for row, stream in at.items()}
        distributions = self._distributions(at)
        cells = self._fuse(logits, distributions, at, streams, before, lines)
        for row in before:
            streams[row].rejoin(at[row])
        self._forks = []
        for row, line in lines.items():
            streams[row].summary.add(line)
            self._metrics.observe_token(line)
        self._trace.write(list(lines.values()))
        return cells

    def end_stream(self, stream: Stream) -> None:
        """Log and count a stream that is finished or aborted."""
        self._requests.abandon(stream)
        if stream.reported and not stream.summary.tokens:
            return  # already reported, and no token since
        stream.summary.log()
        self._metrics.observe_stream(stream.summary)

    def report_stream(self, stream: Stream) -> None:
        """Log and count a stream that may have ended; if it continues, its figures start afresh."""
        self.end_stream(stream)
        stream.reopen()
        stream.summary, stream.reported = StreamSummary(), True

    def abandon_step(self, streams: Sequence[Stream]) -> None:
        """Drop the work of a step that a fault has ended.

        Calls in flight continue and are counted when they end. The streams continue with the next
        step.
        """
        forks, self._forks = self._forks, []
        for stream in (*streams, *forks):
            self._requests.abandon(stream)
            stream.reopen()

    def close(self) -> None:
        """Close connections and end threads."""
        if self._scorer is not None:
            self._scorer.close()
        self._expert.close()
        self._metrics.close()

    def _ask(self, streams: Sequence[Stream], *, host_is_unsure: bool) -> None:
        """Advance the streams and start calls for those that are undecided and may leave."""
        self._requests.begin(self._asking(streams), host_is_unsure=host_is_unsure)

    def _asking(self, streams: Sequence[Stream]) -> list[Stream]:
        """Advance the streams; return those that are undecided and may leave."""
        asking, open_streams = [], []
        # With speculative decoding a stream occurs once per row.
        for stream in {id(stream): stream for stream in streams}.values():
            if stream.torn:
                self._rebuild(stream)
            if stream.undecided and not stream.waits_for_token:
                open_streams.append(stream)
        _look_up_factors(open_streams)
        for stream in open_streams:
            stream.advance()
            stream.declined = _reason_not_to_ask(stream)
            if stream.declined is None:
                self._score_prompt(stream)
                self._requests.take_in(stream)
                asking.append(stream)
        return asking

    def _rebuild(self, stream: Stream) -> None:
        """Rebuild a stream that a fault has left half updated."""
        fresh = self.new_stream(stream.prompt_ids, stream.output_ids, stream.options)
        assert fresh is not None  # the stream was built from the same values
        stream.rebuild(fresh)

    def _score_prompt(self, stream: Stream) -> None:
        """Start scoring the prompt at the first position; use the scores once they arrive."""
        if self._scorer is None:
            return
        if stream.position == 0 and stream.scores is None and not stream.summary.tokens:
            model = stream.options.expert_model or self._config.expert.model
            stream.scores = self._scorer.start(
                stream.prompt_ids or (), stream.prefix.token_ids(), model=model
            )
        if stream.scores is not None and (found := stream.scores.evidence()) is not None:
            stream.evidence.begin(found)
            stream.scores = None

    def _distributions(self, at: Mapping[int, Stream]) -> dict[int, Covered]:
        """Return the expert's distributions for the rows that have one."""
        have = {row: stream for row, stream in at.items() if stream.has_distribution}
        found = covered_of_all(
            [(stream.prefix, stream.received.rows) for stream in have.values()],
            [stream.admits for stream in have.values()],
        )
        return dict(zip(have, found, strict=True))

    def _ask_where_unsure(self, logits: torch.Tensor, at: Mapping[int, Stream]) -> None:
        open_rows = [row for row, stream in at.items() if stream.undecided]
        if not open_rows:
            return
        unsure = []
        asked = host_is_unsure(logits, np.array(open_rows), self._config)
        for row, ask in zip(open_rows, asked, strict=True):
            if ask:
                unsure.append(at[row])
            else:
                at[row].declined = "sure"
        self._ask(unsure, host_is_unsure=True)

    def _join(self, stream: Stream) -> TraceLine:
        """Wait for the expert's reply on this stream until its deadline; return the outcome."""
        followed = stream.ready and self._config.expert.lookahead > 1
        waited_ms, sent, received = self._requests.join(stream)
        return TraceLine(
            label=stream.options.label,
            position=stream.position,
            outcome=stream.declined or "fused",
            waited_ms=waited_ms,
            sent_bytes=sent,
            received_bytes=received,
            followed=followed,
        )

    def _fuse(
        self,
        logits: torch.Tensor,
        distributions: Mapping[int, Covered],
        at: Mapping[int, Stream],
        streams: Mapping[int, Stream],
        drafts: Mapping[int, tuple[int, ...]],
        lines: dict[int, TraceLine],
    ) -> FusedCells:
        """Align and weigh all rows with a distribution at once; note the weights in `lines`."""
        if not distributions:
            return FusedCells.none()
        rows = np.fromiter(distributions, dtype=np.int64)
        top = stacked_with_remainders(list(distributions.values()), self._pair.host)
        with _hidden(logits, {row: streams[row].unwanted for row in distributions}):
            aligned = align(logits, rows, top, self._pair.maps)
        factors, feasible = StepFactors(aligned), aligned.feasible.tolist()
        place_of = {row: place for place, row in enumerate(distributions)}
        # Shortest first: a row's evidence continues that of the row before it.
        for row in sorted(drafts, key=lambda row: len(drafts[row])):
            for before in (other for other in streams if streams[other] is streams[row]):
                if before in place_of and drafts.get(before, ()) == drafts[row][:-1]:
                    factor = factors.of(place_of[before], drafts[row][-1])
                    self._judge_draft(at[row], at[before], drafts[row][-1], factor)
        evidence = np.array([at[row].evidence.value for row in distributions])
        of_prompts = np.array([at[row].evidence.prompt for row in distributions])
        weights = weigh(self._router, aligned, evidence, prompt_evidence=of_prompts)
        of_expert = weights.expert.tolist()
        missing = np.maximum(1 - np.exp(top.logprobs).sum(axis=1), 0.0).tolist()
        for row, place in place_of.items():
            line = lines[row]
            line.expert_weight = of_expert[place]
            line.error_bound = min(1.0, missing[place] + distributions[row].unexpanded)
            if feasible[place]:
                line.outcome = "fused"
                streams[row].weighed(factors, place, drafts=drafts.get(row, ()))
            else:
                line.outcome = "infeasible"
        greedy = np.array([at[row].greedy for row in distributions])
        return fused_cells(logits, rows, aligned, weights, greedy=greedy)

    def _judge_draft(self, stream: Stream, before: Stream, draft: int, factor: float) -> None:
        """Give a draft row the evidence of the row before it and of the draft token.

        The row's own token is never part of it.
        """
        stream.evidence = before.evidence.copy()
        stream.evidence.observe(factor)
        stream.evidence.follow(self._pair.host.decode([draft]))


@contextmanager
def _hidden(logits: torch.Tensor, tokens: Mapping[int, Sequence[int]]) -> Iterator[None]:
    """Put some tokens of some rows at -inf for the moment, so that alignment gives them nothing.

    They have their logits again when the cells are written, on this rank as on the others.
    """
    cells = [(row, token) for row, of_row in tokens.items() for token in of_row]
    if not cells:
        yield
        return
    places = tuple(torch.tensor(cells, device=logits.device).T)
    before = logits[places]
    logits[places] = -torch.inf
    try:
        yield
    finally:
        logits[places] = before


def _look_up_factors(streams: Sequence[Stream]) -> None:
    """Find the factors of the streams' new tokens at once, for them to be judged by."""
    of_step: dict[StepFactors, tuple[list[int], list[int]]] = {}
    for stream in streams:
        judged = stream.to_judge()
        if judged is not None:
            weighed, token = judged
            rows, tokens = of_step.setdefault(weighed.factors, ([], []))
            rows.append(weighed.place)
            tokens.append(token)
    for factors, (rows, tokens) in of_step.items():
        factors.look_up(rows, tokens)


def _reason_not_to_ask(stream: Stream) -> str | None:
    if stream.prompt_ids is None:
        return "no-prompt"
    return None if stream.privacy.clears(stream.text) else "private"
