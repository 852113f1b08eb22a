"""One request while it decodes: its text as bytes, its evidence, its call in flight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vllm_logits_processor.alignment.groups import ExpertTopK
from vllm_logits_processor.alignment.maps import NOTHING
from vllm_logits_processor.alignment.prefix import ExpertPrefix
from vllm_logits_processor.alignment.reweigh import Aligned
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.evidence import Evidence
from vllm_logits_processor.experts.calls import ExpertCall
from vllm_logits_processor.experts.reply import ExpertReply
from vllm_logits_processor.guard import StreamGuard
from vllm_logits_processor.request import RequestOptions

#: What stands for a token that was sampled but is not known yet (async scheduling).
UNKNOWN_TOKEN = -1


@dataclass
class PendingWord:
    """Where the expert's word on one position of one stream will be found."""

    call: ExpertCall
    row: int


@dataclass(frozen=True)
class SpokenWord:
    """The expert's word on one position, received."""

    top: ExpertTopK
    sent_bytes: int
    received_bytes: int


@dataclass
class Stream:
    """State of one request; all of it follows from its tokens and the expert's replies.

    Parameters
    ----------
    host : ByteVocabulary
        Vocabulary of `prompt_ids` and `output_ids`.
    prompt_ids : sequence of int or None
        Host tokens of the prompt; None for prompts given as embeddings, which no expert can read.
    output_ids : list of int
        Host tokens of the answer so far: the engine's own list, which grows.
    options : RequestOptions
    guard : StreamGuard
    prefix : ExpertPrefix
    """

    host: ByteVocabulary
    prompt_ids: Sequence[int] | None
    output_ids: list[int]
    options: RequestOptions
    guard: StreamGuard
    prefix: ExpertPrefix
    text: bytearray = field(default_factory=bytearray)
    evidence: Evidence = field(default_factory=Evidence)
    pending: PendingWord | None = None
    word: SpokenWord | None = None
    #: Why the expert was not asked for the present position, if it was not.
    declined: str | None = None
    _seen: int = 0
    _weighed: tuple[int, Aligned, int] | None = None

    def __post_init__(self) -> None:
        """Take in the prompt."""
        self._append(self.prompt_ids or ())

    @property
    def position(self) -> int:
        """Number of answer tokens that are known: the position that is decoded next."""
        return self._seen

    @property
    def waits_for_token(self) -> bool:
        """True while the last sampled token is not known yet."""
        return bool(self.output_ids) and self.output_ids[-1] == UNKNOWN_TOKEN

    @property
    def needs_call(self) -> bool:
        """True where nothing was decided for the next position when the step began."""
        return len(self.output_ids) != self._seen or not (
            self.pending or self.word or self.declined
        )

    def advance(self) -> None:
        """Take in the tokens sampled since the last step; calls for earlier positions end."""
        new = self.output_ids[self._seen :]
        if not new:
            return
        if self._weighed is not None and self._weighed[0] == self._seen:
            _, aligned, row = self._weighed
            self.evidence.observe(aligned.factor_of(row, new[0]))
        self._weighed = None
        self._append(new)
        self._seen += len(new)
        self.pending = self.word = self.declined = None

    def weighed(self, aligned: Aligned, row: int) -> None:
        """Keep what the expert said of this position, to judge it when the token is known."""
        self._weighed = (self._seen, aligned, row)

    def receive(self, reply: ExpertReply) -> SpokenWord:
        """Take this stream's row out of a reply to the pending call."""
        assert self.pending is not None
        row = slice(self.pending.row, self.pending.row + 1)
        # A batched body is one; its bytes are shared out evenly among the streams of the call.
        share = max(1, self.pending.call.streams)
        self.word = SpokenWord(
            top=ExpertTopK(token_ids=reply.top.token_ids[row], logprobs=reply.top.logprobs[row]),
            sent_bytes=reply.sent_bytes // share,
            received_bytes=reply.received_bytes // share,
        )
        self.pending = None
        return self.word

    def _append(self, tokens: Sequence[int]) -> None:
        data = self.host.decode(tokens)
        self.text += data
        self.prefix.extend(data)


def stacked(words: Sequence[SpokenWord]) -> ExpertTopK:
    """Join the rows of several words into one `ExpertTopK`, filled up to the widest."""
    width = max(word.top.token_ids.shape[1] for word in words)

    def widened(array: npt.NDArray[Any], fill: float) -> npt.NDArray[Any]:
        missing = width - array.shape[1]
        return np.pad(array, ((0, 0), (0, missing)), constant_values=fill)

    return ExpertTopK(
        token_ids=np.concatenate([widened(word.top.token_ids, NOTHING) for word in words]),
        logprobs=np.concatenate([widened(word.top.logprobs, -np.inf) for word in words]),
    )
