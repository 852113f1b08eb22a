"""What is left of an expert token that began in the text so far, as groups of host tokens.

An expert token of the top K is the beginning of its own tokenization of what follows, so the maps
say which host tokens it may mean. What is left of a token behind the end of the text is not: the
text goes on with these bytes, and then in any way. So it may mean every host token that begins with
them, and the one that the host itself begins them with. Which of these, the host decides, as within
any group.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from vllm_logits_processor.alignment.covers import Covered
from vllm_logits_processor.alignment.groups import ExpertTopK, Rest
from vllm_logits_processor.alignment.maps import NOTHING
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.arrays import IntArray

#: Rests that are less likely go to the tail: their groups may have thousands of members.
_LEAST = 1e-3


def with_rests(word: Covered, host: ByteVocabulary) -> ExpertTopK:
    """Return the expert's word on a text, one row, its rests as groups of the host's tokens."""
    rests = {rest: mass for rest, mass in word.rests.items() if mass >= _LEAST}
    if not rests:
        return word.top
    width = word.top.token_ids.shape[1]
    return ExpertTopK(
        token_ids=np.pad(word.top.token_ids, ((0, 0), (0, len(rests))), constant_values=NOTHING),
        logprobs=np.append(word.top.logprobs, np.log(list(rests.values()))[None], axis=1),
        rests=tuple(
            Rest(row=0, place=width + at, tokens=_beginning_with(host, rest))
            for at, rest in enumerate(rests)
        ),
    )


@lru_cache(maxsize=1024)
def _beginning_with(host: ByteVocabulary, rest: bytes) -> IntArray:
    """Return the host tokens that begin with `rest`, and the first of the host's own for it."""
    begin, stop = host.longer(rest)
    first = host.encode(rest)[:1]
    return np.union1d(host.by_bytes[begin:stop], first).astype(np.int64)
