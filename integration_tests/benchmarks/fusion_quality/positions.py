"""The positions of one document: the host's rows and the expert's distributions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch

from integration_tests.benchmarks.fusion_quality.scoring import Scorer, TokenTree, chunks
from vllm_logits_processor.alignment.align import Aligned, align
from vllm_logits_processor.alignment.covers import Covered, covered, wanted_offsets
from vllm_logits_processor.alignment.groups import ExpertTopK, stacked
from vllm_logits_processor.alignment.maps import AlignmentMaps
from vllm_logits_processor.alignment.prefix import ExpertPrefix
from vllm_logits_processor.alignment.remainders import HostTail, with_remainders
from vllm_logits_processor.alignment.unknown import by_spelling, is_text, maps_of_none, top_of
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.step_factors import StepFactors
from vllm_logits_processor.sureness import host_margins

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
#: With boundary handling, without it, and by spelling alone.
Words = tuple[ExpertTopK, ExpertTopK, ExpertTopK]


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A few consecutive positions of a document; arrays have one row a position."""

    targets: IntArray  # the host tokens that the text has there
    pieces: list[bytes]  # what they add to the text
    logits: torch.Tensor  # the host's, (rows, vocabulary), float32; valid until the next chunk
    aligned: Aligned  # the expert's distribution, boundary handling included
    #: The expert's top K after its tokenization of the unmodified text so far: what a peer without
    #: boundary handling receives.
    plain: ExpertTopK
    inside: npt.NDArray[np.bool_]  # where the text so far ends inside an expert token of the text
    log_partition: FloatArray  # logarithm of the sum of exp of the host's logits
    host_logprobs: FloatArray  # what the host gives the targets, nats
    target_factors: FloatArray  # the factors m of the targets
    spelled: Aligned  # the expert's distribution as that of one whose tokenizer is not known
    spelled_factors: FloatArray  # the factors m of the targets by that

    @cached_property
    def host_margins(self) -> FloatArray:
        """By how much the host's likeliest token exceeds the second; shape (rows,)."""
        return host_margins(self.logits, np.arange(len(self.targets)))

    def without_tokenizer(self) -> Chunk:
        """Return the same positions for a host that does not know the expert's tokenizer."""
        return replace(self, aligned=self.spelled, target_factors=self.spelled_factors)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One document under both models, before they are brought together."""

    host: Scorer
    host_hidden: torch.Tensor
    host_targets: list[int]  # the host's tokens of the document
    expert_logprobs: FloatArray  # of the expert's own tokens of the document, nats
    words: ExpertTopK
    plain: ExpertTopK
    spelled: ExpertTopK
    inside: npt.NDArray[np.bool_]

    def chunks(self, maps: AlignmentMaps) -> Iterator[Chunk]:
        """Yield the positions in order, with the host's rows and the aligned expert."""
        first = len(self.host.front) - 1
        of_none = maps_of_none(self.host.vocabulary)
        for places in chunks(range(len(self.host_targets))):
            rows = slice(places[0], places[-1] + 1)
            with torch.no_grad():
                logits = self.host.logits(self.host_hidden, [first + place for place in places])
                each = np.arange(len(places))
                aligned = align(logits, each, _rows(self.words, rows), maps)
                spelled = align(logits, each, _rows(self.spelled, rows), of_none)
            targets = np.array(self.host_targets[rows])
            log_partition = torch.logsumexp(logits, dim=-1).numpy().astype(np.float64)
            own = logits.gather(1, torch.from_numpy(targets)[:, None])[:, 0].numpy()
            yield Chunk(
                targets=targets,
                pieces=_spelled(self.host, self.host_targets[rows]),
                logits=logits,
                aligned=aligned,
                plain=_rows(self.plain, rows),
                inside=self.inside[rows],
                log_partition=log_partition,
                host_logprobs=own.astype(np.float64) - log_partition,
                target_factors=_factors(aligned, targets),
                spelled=spelled,
                spelled_factors=_factors(spelled, targets),
            )


def score(document: bytes, host: Scorer, expert: Scorer, *, top_k: int, covers: int) -> Scored:
    """Run both models over a document of UTF-8.

    The expert tells `top_k` of each distribution, and is asked about `covers` places behind the
    boundary at most, per position.
    """
    targets = host.vocabulary.encode(document)
    own = expert.vocabulary.encode(document)
    pieces = [b"", *_spelled(host, targets[:-1])]
    asking = _Asking(host.vocabulary, expert, own, top_k=top_k, covers=covers)
    words = asking.about(pieces, targets)
    first = len(expert.front) - 1
    return Scored(
        host=host,
        host_hidden=host.read(TokenTree(host.front + targets)).hidden,
        host_targets=targets,
        expert_logprobs=expert.logprobs_of(asking.hidden, range(first, first + len(own)), own),
        words=stacked([word for word, _, _ in words]),
        plain=stacked([plain for _, plain, _ in words]),
        spelled=stacked([spelled for _, _, spelled in words]),
        inside=~np.isin(_ends(pieces), _ends([b"", *_spelled(expert, own)])),
    )


class _Asking:
    """Sends the expert the engine's requests, many positions at a time."""

    def __init__(
        self, host: ByteVocabulary, expert: Scorer, own: list[int], *, top_k: int, covers: int
    ) -> None:
        self._host, self._expert, self._top_k, self._covers = host, expert, top_k, covers
        self._tree = TokenTree(expert.front + own)
        self._reading = expert.read(self._tree)
        self._answers: dict[int, ExpertTopK] = {}
        self._unanswered: set[int] = set()

    @property
    def hidden(self) -> torch.Tensor:
        return self._reading.hidden

    def about(self, pieces: list[bytes], targets: list[int]) -> list[Words]:
        """Return the distributions after each piece of the text; see `Words`.

        Each of `targets`, the host's tokens, comes after the piece at its place. A request may
        depend on earlier answers, so passes over the text are repeated until every request is
        answered.
        """
        while True:
            words = self._go_through(pieces, targets)
            if not self._unanswered:
                return words
            nodes = sorted(self._unanswered)
            self._unanswered = set()
            self._reading.catch_up()
            answers = self._expert.top(self.hidden, nodes, self._top_k)
            for place, node in enumerate(nodes):
                self._answers[node] = answers.row(place)

    def _go_through(self, pieces: list[bytes], targets: list[int]) -> list[Words]:
        prefix = ExpertPrefix(self._expert.vocabulary, self._expert.front)
        received: dict[int, ExpertTopK] = {}
        words: list[Words] = []
        text = bytearray()
        for piece in pieces:
            prefix.extend(piece)
            text += piece
            # As in the engine, what was received at places still behind the boundary is kept.
            boundary = prefix.boundary()
            received = {offset: word for offset, word in received.items() if offset >= boundary}
            for offset in wanted_offsets(prefix, received, most=self._covers):
                node = self._tree.node_of(prefix.token_ids_to(offset))
                if node in self._answers:
                    received[offset] = self._answers[node]
                else:
                    self._unanswered.add(node)
            if not self._unanswered:
                tail = HostTail(self._host, targets[: len(words)])
                word = covered(prefix, received, admits=tail.admits)
                plain = received[prefix.length]
                spelled = self._spelled(plain, bytes(text))
                words.append((with_remainders(word, self._host), plain, spelled))
        return words

    def _spelled(self, plain: ExpertTopK, text: bytes) -> ExpertTopK:
        """Return what a server that is given the text, and names tokens by spelling, would say.

        It is not asked where the text ends inside a character, and tokens that are no text by
        themselves say nothing.
        """
        spellings = self._expert.vocabulary.token_bytes
        row = zip(plain.token_ids[0].tolist(), plain.logprobs[0].tolist(), strict=True)
        said = [(spellings[token] or b"", logprob) for token, logprob in row]
        known = [(data, logprob) for data, logprob in said if is_text(data)]
        top = top_of(by_spelling(known if is_text(text) else []))
        return with_remainders(Covered(top=top), self._host)


def _factors(aligned: Aligned, targets: IntArray) -> FloatArray:
    factors, tokens = StepFactors(aligned), targets.tolist()
    factors.look_up(range(len(tokens)), tokens)
    return np.array([factors.of(row, token) for row, token in enumerate(tokens)])


def _spelled(model: Scorer, tokens: list[int]) -> list[bytes]:
    return [model.vocabulary.decode([token]) for token in tokens]


def _ends(pieces: list[bytes]) -> list[int]:
    return list(accumulate(len(piece) for piece in pieces))


def _rows(top: ExpertTopK, rows: slice) -> ExpertTopK:
    return stacked([top.row(at) for at in range(rows.start, rows.stop)])
