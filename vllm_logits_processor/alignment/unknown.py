"""An expert whose tokenizer is not known: its texts are bytes, and its tokens are spellings.

Such an expert is given text, and what it says of the next token is a probability for each of a few
spellings, whose groups of host tokens `vllm_logits_processor.alignment.remainders` makes. In the
place of the expert's vocabulary stand the 256 bytes, so that a text has tokens, and no token has an
end other than the text's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from vllm_logits_processor.alignment.groups import ExpertTopK, Spelled
from vllm_logits_processor.alignment.maps import NOTHING, AlignmentMaps, maps_from_firsts
from vllm_logits_processor.alignment.spelling import BYTE_TO_CHAR
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary

_BYTES = tuple(bytes([byte]) for byte in range(256))

#: Names of special tokens, which are no text: as most models write them, and those of Llama,
#: Mistral and Gemma.
_SPECIAL = re.compile(
    rb"<\|[^|<>]+\|>|</?s>|<(?:unk|pad|bos|eos|start_of_turn|end_of_turn)>|\[/?INST\]"
)


def bytes_alone() -> ByteVocabulary:
    """Return the vocabulary of the 256 bytes: token `n` is the byte `n`."""
    backend = Tokenizer(
        models.BPE(vocab={char: byte for byte, char in BYTE_TO_CHAR.items()}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return ByteVocabulary.from_backend(backend, name="unknown", end_ids=frozenset())


def is_unknown(vocabulary: ByteVocabulary) -> bool:
    """Return whether a vocabulary is that of `bytes_alone`."""
    return vocabulary.token_bytes == _BYTES


def maps_of_none(host: ByteVocabulary) -> AlignmentMaps:
    """Return the maps of a host and `bytes_alone`: no token of either maps to any.

    A reply names no tokens that they could map.
    """
    return maps_from_firsts(
        np.full(len(host), NOTHING, dtype=np.int32), np.full(len(_BYTES), NOTHING, dtype=np.int32)
    )


def by_spelling(row: Iterable[tuple[bytes | None, float]]) -> dict[bytes, float]:
    """Return the logprobs of a row's spellings; those that say nothing are left out.

    Parameters
    ----------
    row : iterable of (bytes or None, float)
        Spellings, None for one that is no text by itself, and their logprobs. Probabilities of
        tokens with one spelling add up. Empty spellings and the names of special tokens say
        nothing: what they stand for cannot be known.
    """
    joined: dict[bytes, float] = {}
    # NaN is refused where the row is checked.
    with np.errstate(invalid="ignore"):
        for data, logprob in row:
            if data and not _SPECIAL.fullmatch(data):
                joined[data] = float(np.logaddexp(joined.get(data, -math.inf), logprob))
    return joined


def top_of(spellings: Mapping[bytes, float]) -> ExpertTopK:
    """Return a row of spellings and their logprobs as the expert's distribution; none is a token.

    Without spellings it says nothing, and leaves the host's row as it is.
    """
    width = max(1, len(spellings))
    logprobs = np.full((1, width), -np.inf)
    logprobs[0, : len(spellings)] = [*spellings.values()]
    return ExpertTopK(
        token_ids=np.full((1, width), NOTHING, dtype=np.int64),
        logprobs=logprobs,
        spelled=tuple(
            Spelled(row=0, place=place, data=data) for place, data in enumerate(spellings)
        ),
    )


def is_text(data: bytes | bytearray) -> bool:
    """Return whether bytes are UTF-8, so that they can be sent as text."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
