"""One request while it decodes: its text as bytes, its evidence, its calls in flight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from vllm_logits_processor.alignment.prefix import ExpertPrefix
from vllm_logits_processor.alignment.remainders import HostTail
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.evidence import Evidence, PromptScores
from vllm_logits_processor.expert.calls import ExpertCall
from vllm_logits_processor.expert.lookahead import Place, ReceivedDistributions
from vllm_logits_processor.observe import StreamSummary
from vllm_logits_processor.privacy import StreamPrivacy
from vllm_logits_processor.request_options import RequestOptions
from vllm_logits_processor.step_factors import StepFactors

#: Stands for a token that was sampled but is not known yet (async scheduling).
UNKNOWN_TOKEN = -1


def known_tokens(ids: list[int]) -> list[int]:
    """Return an answer's tokens without those at its end that are not known yet."""
    end = len(ids)
    while end and ids[end - 1] == UNKNOWN_TOKEN:
        end -= 1
    return ids[:end]


class ExpertAsked(NamedTuple):
    """The rows of a call that will hold the expert's distributions for some places of a stream."""

    call: ExpertCall
    rows: tuple[tuple[Place, int], ...]


class Weighed(NamedTuple):
    """The factors used at one position, kept until the sampled token is known.

    `drafts` are the draft tokens before the position; empty without speculative decoding. `place`
    is that of the row in its step.
    """

    drafts: tuple[int, ...]
    factors: StepFactors
    place: int

    def of(self, token: int) -> float:
        """Return the factor of one host token."""
        return self.factors.of(self.place, token)


@dataclass
class Stream:
    """State of one request, which follows from its tokens and the expert's replies.

    Parameters
    ----------
    host : ByteVocabulary
        Vocabulary of `prompt_ids` and `output_ids`.
    prompt_ids : sequence of int or None
        Host tokens of the prompt; None for a prompt given as embeddings, which no expert can read.
    output_ids : list of int
        Host tokens of the answer so far: the caller's own list, which grows.
    prefix : ExpertPrefix
        The text as expert tokens.
    text : bytearray
        Prompt and answer as bytes, as the gate sees them.
    greedy : bool
        True if the likeliest token of each row is taken.
    unwanted : tuple of int
        Host tokens that the expert makes no likelier.
    """

    host: ByteVocabulary
    prompt_ids: Sequence[int] | None
    output_ids: list[int]
    options: RequestOptions
    privacy: StreamPrivacy
    prefix: ExpertPrefix
    received: ReceivedDistributions
    text: bytearray
    greedy: bool = False
    unwanted: tuple[int, ...] = ()
    evidence: Evidence = field(default_factory=Evidence)
    summary: StreamSummary = field(default_factory=StreamSummary)
    scores: PromptScores | None = None
    #: A call for the current position, and one for the expected continuation.
    pending: ExpertAsked | None = None
    ahead: ExpertAsked | None = None
    #: The call by which the expert reads the text, while it is in flight; and whether the expert
    #: has read it. A server that was skipped for a while may have dropped it.
    first: ExpertAsked | None = None
    read: bool = False
    #: True for an expected text that does not exist yet; see `forked`.
    drafted: bool = False
    #: Why no distribution was requested for the current position, if none was.
    declined: str | None = None
    #: True if everything needed for the current position has been received.
    ready: bool = False
    #: True while new tokens are being added: a fault meanwhile leaves text, prefix and received
    #: distributions inconsistent.
    torn: bool = False
    #: True once its figures were reported before its end was known.
    reported: bool = False
    _seen: int = 0
    _weighed: list[Weighed] = field(default_factory=list)
    #: The host's last word, with the number of answer tokens then.
    _host_tail: tuple[int, HostTail] | None = None

    def __post_init__(self) -> None:
        """Tell the evidence where the answer begins."""
        self.evidence.follow(bytes(self.text[-1:]))

    @property
    def position(self) -> int:
        """Number of known answer tokens, which is the next position."""
        return self._seen

    @property
    def waits_for_token(self) -> bool:
        """True while the last sampled token is not known yet."""
        ids = self.output_ids
        return bool(ids) and ids[-1] == UNKNOWN_TOKEN

    @property
    def undecided(self) -> bool:
        """True while it is undecided how the next position is decoded."""
        return len(self.output_ids) != self._seen or not (
            # A first call may end at any time.
            self.pending or (self.declined and self.declined != "reading") or self.ready
        )

    def advance(self) -> None:
        """Add the tokens sampled since the last step; reset decisions about earlier positions."""
        new = self.output_ids[self._seen :]
        if not new:
            return
        self.torn = True
        pieces = [self.host.decode((token,)) for token in new]
        self._judge(new, pieces)
        self._append(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        self._seen += len(new)
        self.pending, self.declined, self.ready = None, None, False
        self.torn = False

    def reopen(self) -> None:
        """Mark the current position as undecided; its calls have been abandoned."""
        self.pending = self.ahead = self.declined = None
        self.ready = False

    def rebuild(self, fresh: Stream) -> None:
        """Take over the state of a new stream for this request.

        That state follows from the request's tokens. The rest is kept: evidence, figures, and the
        gate's verdict.
        """
        self.text, self.prefix, self.received = fresh.text, fresh.prefix, fresh.received
        self._seen, self._weighed, self._host_tail = 0, [], None
        self.reopen()
        self.torn = False

    def meets_ahead(self, wanted: Sequence[Place]) -> bool:
        """Make the call that was started ahead the pending one, if it is for `wanted`."""
        if self.ahead is None or len(wanted) != 1:
            return False
        ((place, row),) = self.ahead.rows
        if (place.offset, place.token_ids) != (wanted[0].offset, wanted[0].token_ids):
            return False
        self.pending, self.ahead = ExpertAsked(self.ahead.call, ((wanted[0], row),)), None
        return True

    @property
    def has_distribution(self) -> bool:
        """True if the expert's distribution for the current position is there, and counts."""
        return not self.declined and self.prefix.length in self.received.rows

    def admits(self, rest: bytes) -> bool:
        """Return whether the text may continue with `rest` after the host's tokens."""
        known = self._host_tail
        if known is None or known[0] != len(self.output_ids):
            tail = HostTail(self.host, self.prompt_ids or (), self.output_ids)
            known = self._host_tail = len(self.output_ids), tail
        return known[1].admits(rest)

    def weighed(self, factors: StepFactors, place: int, *, drafts: tuple[int, ...] = ()) -> None:
        """Keep the factors of this position until the sampled token is known.

        Parameters
        ----------
        place : int
            That of the position's row in the step.
        drafts : tuple of int, optional
            Draft tokens before the position, after the stream's own tokens.
        """
        self._weighed.append(Weighed(drafts, factors, place))

    def leave_step(self) -> None:
        """Keep nothing of the other rows of its last step."""
        self._weighed = [
            Weighed(each.drafts, each.factors.only(each.place), 0) for each in self._weighed
        ]

    def to_judge(self) -> tuple[Weighed, int] | None:
        """Return the factors that count of the first token that is new, and the token."""
        if not self._weighed or len(self.output_ids) <= self._seen:
            return None
        # The last factors of a position count: chunks of a prompt share a position.
        found = self._weighed[-1]
        return None if found.drafts else (found, self.output_ids[self._seen])

    def forked(self, drafts: Sequence[int]) -> Stream:
        """Return the stream as it would be after `drafts`; this one is unchanged."""
        data = self.host.decode(drafts)
        received = self.received.forked()
        prefix = self.prefix.branch(data)
        received.forget(prefix.boundary())
        return replace(
            self,
            output_ids=[*self.output_ids, *drafts],
            privacy=replace(self.privacy),
            prefix=prefix,
            received=received,
            text=self.text + data,
            evidence=self.evidence.copy(),
            pending=None,
            ahead=None,
            # The fork has its own entry for a call that this step starts.
            first=None if self.first is self.pending else self.first,
            drafted=True,
            declined=None,
            ready=False,
            _seen=self._seen + len(drafts),
            _weighed=[],
            _host_tail=None,
        )

    def rejoin(self, fork: Stream) -> None:
        """Keep what a fork has received, in case this stream continues as the fork did."""
        drafted = bytes(fork.text[len(self.text) :])
        self.received.adopt(fork.received, fork.prefix, drafted=drafted)

    def _judge(self, new: Sequence[int], pieces: Sequence[bytes]) -> None:
        """Turn kept factors of tokens that are now known into evidence, all or nothing."""
        factors: list[float | None] = []
        for at, token in enumerate(new):
            before = tuple(new[:at])
            # The last factors of a position count: chunks of a prompt share a position.
            for each in reversed(self._weighed):
                if each.drafts == before:
                    factors.append(each.of(token))
                    break
            else:
                factors.append(None)
        # Only to look up factors may fail.
        self._weighed = []
        for factor, piece in zip(factors, pieces, strict=True):
            if factor is not None:
                self.evidence.observe(factor)
            self.evidence.follow(piece)

    def _append(self, data: bytes) -> None:
        self.text += data
        self.prefix.extend(data)
        self.received.follow(data, self.prefix)
