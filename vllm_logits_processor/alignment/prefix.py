"""The text so far as expert tokens, kept up to date at the cost of its tail."""

from __future__ import annotations

from itertools import accumulate

from vllm_logits_processor.alignment.vocabulary import ByteVocabulary

#: A tail longer than this is shortened, if a safe cut is found...
_LONG = 768
#: ...that leaves at least this many bytes open to what comes next.
_OPEN = 256


class ExpertPrefix:
    """A growing text, tokenized by the expert's tokenizer.

    Bytes are the only state that counts: nothing is decoded and encoded again. The text is split
    into a settled front, whose tokens are final, and a tail, which is tokenized anew when it grows.
    A cut between the two is made at the beginning of a word, and only where the tokenizer gives the
    same tokens with the cut as without it.

    Parameters
    ----------
    vocabulary : ByteVocabulary
        The expert's.
    """

    def __init__(self, vocabulary: ByteVocabulary) -> None:
        self._vocabulary = vocabulary
        self._settled: list[int] = list(vocabulary.bos_ids)
        self._tail = bytearray()
        self._tail_ids: list[int] | None = []
        self._next_cut = _LONG

    def extend(self, data: bytes) -> None:
        """Append `data` to the text."""
        if data:
            self._tail += data
            self._tail_ids = None

    def token_ids(self) -> list[int]:
        """Return the expert's tokens of the whole text, its BOS (if it has one) in front."""
        if self._tail_ids is None:
            self._tail_ids = self._vocabulary.encode(bytes(self._tail))
            if len(self._tail) >= self._next_cut:
                self._settle(self._tail_ids)
        return self._settled + self._tail_ids

    def _settle(self, ids: list[int]) -> None:
        spelled = [self._vocabulary.token_bytes[token] or b"" for token in ids]
        starts = [0, *accumulate(len(piece) for piece in spelled)]
        limit = len(self._tail) - _OPEN
        for at in range(len(ids) - 1, 0, -1):
            begin = starts[at]
            if begin > limit or not self._begins_word(begin):
                continue
            front, rest = bytes(self._tail[:begin]), bytes(self._tail[begin:])
            if (
                self._vocabulary.encode(front) == ids[:at]
                and self._vocabulary.encode(rest) == ids[at:]
            ):
                self._settled += ids[:at]
                self._tail, self._tail_ids = bytearray(rest), ids[at:]
                self._next_cut = _LONG
            else:
                # Try again when the tail has grown; trying every cut would cost a step its time.
                self._next_cut = len(self._tail) + _OPEN
            return

    def _begins_word(self, at: int) -> bool:
        """Tell whether one space and then a letter stand at `at`, and no space before."""
        before, here, after = self._tail[at - 1 : at], self._tail[at : at + 1], self._tail[at + 1 :]
        return here == b" " and not before.isspace() and after[:1].isalpha()
