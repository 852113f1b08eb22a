"""Remainders of expert tokens that began in the text so far, and which of them the host excludes.

The host's own last token restricts the text to come: otherwise the host would have written a longer
token.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np

from vllm_logits_processor.alignment.covers import Covered
from vllm_logits_processor.alignment.groups import ExpertTopK, Remainder, stacked
from vllm_logits_processor.alignment.maps import NOTHING
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.arrays import IntArray, TokenArray

#: Most host tokens that the test looks back at.
_MOST_TOKENS = 8

#: Possible continuations, which change how the end of a word is tokenized: "install" is one token
#: of SmolLM2's, and "installing" is "inst" and "alling".
_GOING_ON = (b"", b"a", b"ing", b"ed", b"er", b"s")


class HostTail:
    """The host's tokens of the last word of a text.

    A model writes a text in the tokens of its tokenizer. So if the host has written " a", the text
    does not continue with "n": the host would have written " an". Such a continuation is not
    admitted, however likely it is to the expert.

    Parameters
    ----------
    vocabulary : ByteVocabulary
        The host's.
    token_ids : sequences of int
        The host's tokens of the text, such as the prompt's and the answer's; only the last few
        count.
    """

    def __init__(self, vocabulary: ByteVocabulary, *token_ids: Sequence[int]) -> None:
        self._vocabulary = vocabulary
        self._token_ids = token_ids

    @cached_property
    def _tokens(self) -> tuple[int, ...]:
        last = [token for part in self._token_ids for token in part[-_MOST_TOKENS:]]
        return _last_word(self._vocabulary, last)

    def admits(self, rest: bytes) -> bool:
        """Return whether the text may continue with `rest` after the host's tokens.

        Also true if those tokens are not the tokenizer's own: they imply nothing.
        """
        return not self._tokens or _admits(self._vocabulary, self._tokens, rest)


def _last_word(vocabulary: ByteVocabulary, token_ids: Sequence[int]) -> tuple[int, ...]:
    """Return the last tokens of a text, back to one that begins with a space."""
    tokens: list[int] = []
    for token in reversed(token_ids[-_MOST_TOKENS:]):
        spelled = vocabulary.token_bytes[token] if 0 <= token < len(vocabulary) else None
        if not spelled:
            break
        tokens.append(token)
        if spelled[:1].isspace():
            break
    return tuple(reversed(tokens))


@lru_cache(maxsize=16384)
def _admits(vocabulary: ByteVocabulary, tokens: tuple[int, ...], rest: bytes) -> bool:
    before = _own_text(vocabulary, tokens)
    return before is None or any(
        tuple(vocabulary.encode(before + rest + more)[: len(tokens)]) == tokens
        for more in _GOING_ON
    )


@lru_cache(maxsize=4096)
def _own_text(vocabulary: ByteVocabulary, tokens: tuple[int, ...]) -> bytes | None:
    """Return the text of some tokens; None if the tokenizer would write it as others."""
    data = vocabulary.decode(tokens)
    return data if tuple(vocabulary.encode(data)) == tokens else None


#: Less likely remainders go to the tail: their groups may have thousands of members.
_LEAST = 1e-3

#: More members than this are many; and so many would cost a step its time.
_MANY, _TOO_MANY = 64, 5000


def with_remainders(covered: Covered, host: ByteVocabulary) -> ExpertTopK:
    """Return the expert's distribution, one row, with its remainders as groups of host tokens.

    What an expert without a known tokenizer has spelled becomes groups likewise.
    """
    if covered.top.spelled:
        return _grouped(covered.top, host)
    remainders = {rest: mass for rest, mass in covered.remainders.items() if mass >= _LEAST}
    if not remainders:
        if not covered.log_share:
            return covered.top
        return ExpertTopK(token_ids=covered.top.token_ids, logprobs=covered.logprobs)
    width = covered.top.token_ids.shape[1]
    return ExpertTopK(
        token_ids=np.concatenate(
            [covered.top.token_ids, np.full((1, len(remainders)), NOTHING)], axis=1
        ),
        logprobs=np.append(covered.logprobs, np.log(list(remainders.values()))[None], axis=1),
        remainders=tuple(
            Remainder(row=0, place=width + at, tokens=_beginning_with(host, rest))
            for at, rest in enumerate(remainders)
        ),
    )


def stacked_with_remainders(covered: Sequence[Covered], host: ByteVocabulary) -> ExpertTopK:
    """Return several distributions as one `ExpertTopK`, each as `with_remainders` returns it."""
    width = covered[0].top.token_ids.shape[1]
    if any(each.top.spelled or each.top.token_ids.shape[1] != width for each in covered):
        return stacked([with_remainders(each, host) for each in covered])
    rests, masses, places = [], [], []
    for row, each in enumerate(covered):
        place = width
        for rest, mass in each.remainders.items():
            if mass >= _LEAST:
                tokens = _beginning_with(host, rest)
                rests.append(Remainder(row=row, place=place, tokens=tokens))
                masses.append(mass)
                places.append((row, place))
                place += 1
    ids = np.concatenate([each.top.token_ids for each in covered])
    logprobs = np.concatenate([each.top.logprobs for each in covered])
    logprobs += np.array([each.log_share for each in covered])[:, None]
    if not rests:
        return ExpertTopK(token_ids=ids, logprobs=logprobs)
    shape = len(covered), max(place for _, place in places) + 1
    of_all = ExpertTopK(
        token_ids=np.full(shape, NOTHING), logprobs=np.full(shape, -np.inf), remainders=tuple(rests)
    )
    of_all.token_ids[:, :width], of_all.logprobs[:, :width] = ids, logprobs
    of_all.logprobs[tuple(np.array(places).T)] = np.log(masses)
    return of_all


@lru_cache(maxsize=1024)
def _beginning_with(host: ByteVocabulary, rest: bytes) -> IntArray:
    """Return the host tokens that begin with `rest`, and the first of the host's own spelling."""
    begin, stop = host.longer(rest)
    first = host.encode(rest)[:1]
    return np.union1d(host.by_bytes[begin:stop], first).astype(np.int64)


def _grouped(top: ExpertTopK, host: ByteVocabulary) -> ExpertTopK:
    """Return a row of spellings as groups of host tokens.

    A group is the host tokens that begin with the spelling, but for those that begin with a longer
    one of the row, which the expert would have written; and of the tokens that are a prefix of it
    the one with which the host would begin it. Unlikely spellings with large groups go to the tail,
    and a spelling that begins very many tokens, such as a single space, stands for itself alone:
    for most of what begins with it the expert has tokens of its own.
    """
    logprobs = top.logprobs.copy()
    groups = []
    listed = sorted(each.data for each in top.spelled)
    for each in top.spelled:
        data = each.data
        tokens, begin = host.spelled(data), host.longer(data)[0]
        parts = [tokens]
        for other in listed[bisect_right(listed, data) :]:
            if not other.startswith(data):
                break
            first, behind = host.beginning_with(other)
            parts.append(host.by_bytes[begin : max(begin, first)])
            begin = max(begin, behind)
        parts.append(host.by_bytes[begin : max(begin, host.longer(data)[1])])
        parts.append(_prefix_of(host, data))
        group = np.concatenate(parts).astype(np.int64)
        if len(group) > _TOO_MANY and len(tokens):
            group = tokens.astype(np.int64)
        if len(group) > _MANY and logprobs[0, each.place] < np.log(_LEAST):
            logprobs[0, each.place] = -np.inf
        else:
            groups.append(Remainder(row=0, place=each.place, tokens=group, known=len(tokens)))
    return ExpertTopK(token_ids=top.token_ids, logprobs=logprobs, remainders=tuple(groups))


@lru_cache(maxsize=8192)
def _prefix_of(host: ByteVocabulary, data: bytes) -> TokenArray:
    """Return the token with which the host begins `data`; none if that is no prefix of it."""
    first = [
        token
        for token in host.encode(data)[:1]
        if 0 < len(spelled := host.decode([token])) < len(data) and data.startswith(spelled)
    ]
    return np.array(first, dtype=np.int32)
