"""Describes the maps of a pair of tokenizers: figures, and the tokens of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vllm_logits_processor.alignment.maps import NOTHING, AlignmentMaps
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.arrays import TokenArray

#: How many examples of each kind are shown.
_EXAMPLES = 5
_PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, kw_only=True)
class SideReport:
    """One tokenizer of a pair.

    Attributes
    ----------
    kind : str
        How its tokens spell bytes.
    tokens : int
        Number of token ids.
    shared : int
        Number of tokens whose bytes are also a token of the other tokenizer.
    mapped : int
        Number of tokens that map to a token of the other.
    without_text : int
        Number of unmapped tokens that add no text: special ones, and ids without a token.
    not_spelled : int
        Number of unmapped tokens whose bytes the other tokenizer cannot spell.
    not_spelled_examples : tuple of str
        The first few of these; see `spelled`.
    ends : tuple of int
        The tokens that end a turn.
    """

    name: str
    kind: str
    tokens: int
    shared: int
    mapped: int
    without_text: int
    not_spelled: int
    not_spelled_examples: tuple[str, ...]
    ends: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class GroupReport:
    """Sizes of the groups of the expert's tokens that are mapped.

    Attributes
    ----------
    percentiles : dict of int to int
        Percent to host tokens per group.
    largest : tuple of (str, int)
        The largest groups: the expert's token and its number of host tokens.
    """

    percentiles: dict[int, int]
    largest: tuple[tuple[str, int], ...]


@dataclass(frozen=True, kw_only=True)
class ShownToken:
    """One token of a text, and the token to which it is mapped.

    Attributes
    ----------
    first : int or None
        The other tokenizer's first token for it; None if it is not mapped.
    group : int
        For an expert's token, the number of host tokens in its group; for a host token, in the
        group of `first`.
    """

    token: int
    text: str
    first: int | None
    first_text: str | None
    group: int


def spelled(data: bytes | None) -> str:
    """Return bytes as a quoted literal that is safe to print, without control characters."""
    if data is None:
        return "(no text)"
    try:
        return repr(data.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(data)


def side_reports(
    host: ByteVocabulary, expert: ByteVocabulary, maps: AlignmentMaps
) -> tuple[SideReport, SideReport]:
    """Return the reports on the host's and on the expert's side of the maps."""
    return (
        _side(host, expert, np.asarray(maps.first_expert)),
        _side(expert, host, np.asarray(maps.first_host)),
    )


def group_report(expert: ByteVocabulary, maps: AlignmentMaps) -> GroupReport:
    """Return the report on the sizes of the groups of the expert's tokens."""
    sizes = group_sizes(maps)
    found = sizes[sizes > 0]
    values = np.percentile(found, _PERCENTILES, method="lower") if len(found) else (0, 0, 0)
    largest = np.argsort(-sizes, kind="stable")[:_EXAMPLES].tolist()
    return GroupReport(
        percentiles={at: int(value) for at, value in zip(_PERCENTILES, values, strict=True)},
        largest=tuple(
            (spelled(expert.token_bytes[token]), int(sizes[token]))
            for token in largest
            if sizes[token]
        ),
    )


def group_sizes(maps: AlignmentMaps) -> TokenArray:
    """Return the number of host tokens in the group of each expert token, shape (tokens,)."""
    sizes: TokenArray = (np.diff(maps.offsets) + (maps.extra != NOTHING)).astype(np.int32)
    return sizes


def shown(
    data: bytes, host: ByteVocabulary, expert: ByteVocabulary, maps: AlignmentMaps
) -> tuple[list[ShownToken], list[ShownToken]]:
    """Return a text as the host's tokens and as the expert's, each with its mapped token.

    Parameters
    ----------
    data : bytes
        The text; it need not be UTF-8.
    """
    sizes = group_sizes(maps)
    firsts = np.asarray(maps.first_expert)
    of_first = np.where(firsts == NOTHING, 0, sizes[firsts])
    return (
        _shown(host.encode(data), host, expert, firsts, of_first),
        _shown(expert.encode(data), expert, host, np.asarray(maps.first_host), sizes),
    )


def _shown(
    ids: Sequence[int],
    source: ByteVocabulary,
    target: ByteVocabulary,
    firsts: TokenArray,
    groups: TokenArray,
) -> list[ShownToken]:
    tokens = []
    for token in ids:
        first = int(firsts[token])
        known = first != NOTHING
        tokens.append(
            ShownToken(
                token=token,
                text=spelled(source.token_bytes[token]),
                first=first if known else None,
                first_text=spelled(target.token_bytes[first]) if known else None,
                group=int(groups[token]),
            )
        )
    return tokens


def _side(source: ByteVocabulary, target: ByteVocabulary, firsts: TokenArray) -> SideReport:
    others = {data for data in target.token_bytes if data}
    unmapped = np.flatnonzero(firsts == NOTHING).tolist()
    not_spelled = [data for token in unmapped if (data := source.token_bytes[token])]
    return SideReport(
        name=source.name,
        kind=source.kind,
        tokens=len(source),
        shared=sum(data in others for data in source.token_bytes if data),
        mapped=len(source) - len(unmapped),
        without_text=len(unmapped) - len(not_spelled),
        not_spelled=len(not_spelled),
        not_spelled_examples=tuple(spelled(data) for data in not_spelled[:_EXAMPLES]),
        ends=tuple(sorted(source.end_ids)),
    )
