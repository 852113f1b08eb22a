"""Maps tokens of two vocabularies that mean the same: the static maps f and g, and their groups.

`f(v)` is the first expert token of the expert's own tokenization of ``bytes(v)``, for a host token
`v`; `g(u)` is the first host token of the host's own tokenization of ``bytes(u)``, for an expert
token `u`. If several tokens have the same bytes, the maps use the tokenizers' own choice: another
one (the lowest id, as in the exact-string matching of TLI) makes fusion worse than no fusion.

The group of an expert token is ``G(u) = {v : f(v) = u} + {g(u)}``. Every host token is in at most
one group by f, stored as compressed rows (``members[offsets[u]:offsets[u + 1]]``), and `extra`
holds g(u) where f does not already put it into the group of `u`.

Special tokens mean nothing to another tokenizer, except that all ends of a turn are one event.

Maps are built once per pair of tokenizers, kept on disk, and memory-mapped by every process.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from floe_plugins import files
from floe_plugins.errors import FloeError
from floe_plugins.system import CACHE_VARIABLE, cache_dir
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.arrays import IntArray, TokenArray

#: Changes whenever the maps of the same two tokenizers would differ.
FORMAT = 5

#: In `first_expert` and `first_host`: the token maps to nothing.
NOTHING = -1

#: Receives the number of mapped tokens, and of all.
Progress = Callable[[int, int], None]

#: Tokens between two reports of progress: a fraction of a second's work.
_BATCH = 8192


@dataclass(frozen=True, kw_only=True)
class AlignmentMaps:
    """The maps of a (host, expert) pair of tokenizers.

    Attributes
    ----------
    first_expert : int32 array, shape (host tokens,)
        f; `NOTHING` for special tokens, and for tokens that the expert cannot spell.
    first_host : int32 array, shape (expert tokens,)
        g; `NOTHING` likewise.
    offsets : int64 array, shape (expert tokens + 1,)
        Begin of each expert token's group in `members`.
    members : int32 array, shape (host tokens that f maps,)
        Host tokens by group: the inverse of f.
    extra : int32 array, shape (expert tokens,)
        g(u) where it is not in the group of `u` by f, else `NOTHING`.
    end_ids : int32 array
        The expert's end tokens, ascending. They are one event: the reader of an expert's reply puts
        the mass of all of them at ``end_ids[0]``, whose group is all of the host's end tokens.
        Empty for equal tokenizers whose models end alike.
    """

    first_expert: TokenArray
    first_host: TokenArray
    offsets: IntArray
    members: TokenArray
    extra: TokenArray
    end_ids: TokenArray


def maps_key(host: ByteVocabulary, expert: ByteVocabulary) -> str:
    """Return the name under which this pair's maps are kept; it depends only on content."""
    return f"v{FORMAT}-{host.fingerprint[:24]}-{expert.fingerprint[:24]}"


def build_maps(
    host: ByteVocabulary, expert: ByteVocabulary, *, progress: Progress | None = None
) -> AlignmentMaps:
    """Build f, g and the groups; for equal tokenizers both are the identity by definition.

    Parameters
    ----------
    progress : callable, optional
        Called periodically as ``progress(done, total)``.
    """
    same = _same_text(host, expert)
    if same:
        identity = np.arange(len(host), dtype=np.int32)
        first_expert, first_host = identity, identity.copy()
    else:
        total = len(host) + len(expert)
        say = progress or (lambda done, total: None)
        first_expert = _first_tokens(host, expert, lambda done: say(done, total))
        first_host = _first_tokens(expert, host, lambda done: say(len(host) + done, total))
    ends = np.empty(0, dtype=np.int32)
    if not (same and host.end_ids == expert.end_ids):
        ends = _join_ends(host, expert, first_expert, first_host)
    return maps_from_firsts(first_expert, first_host, end_ids=ends)


def maps_from_firsts(
    first_expert: TokenArray, first_host: TokenArray, *, end_ids: TokenArray | None = None
) -> AlignmentMaps:
    """Derive the groups from f and g.

    Parameters
    ----------
    first_expert, first_host : int32 arrays, shapes (host tokens,) and (expert tokens,)
        f and g; they become the arrays of :class:`AlignmentMaps`.
    end_ids : int32 array, optional
        The expert's end tokens, if they are one event; none if not given.
    """
    hosts = np.flatnonzero(first_expert != NOTHING)
    owners = first_expert[hosts]
    order = np.argsort(owners, kind="stable")
    counts = np.bincount(owners, minlength=len(first_host))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    already = first_expert[first_host] == np.arange(len(first_host))
    return AlignmentMaps(
        first_expert=first_expert,
        first_host=first_host,
        offsets=offsets,
        members=hosts[order].astype(np.int32),
        extra=np.where(already, NOTHING, first_host).astype(np.int32),
        end_ids=np.empty(0, dtype=np.int32) if end_ids is None else end_ids,
    )


def _same_text(host: ByteVocabulary, expert: ByteVocabulary) -> bool:
    """Return whether both tokenize alike; their models may still end a turn differently."""
    return host is expert or (
        host.token_bytes == expert.token_bytes and host.encoder.to_str() == expert.encoder.to_str()
    )


def _first_tokens(
    source: ByteVocabulary, target: ByteVocabulary, say: Callable[[int], None]
) -> TokenArray:
    """Map each token of `source` to the first token of `target`'s tokenization of its bytes."""
    firsts = np.full(len(source), NOTHING, dtype=np.int32)
    spelled = [(token, data) for token, data in enumerate(source.token_bytes) if data]
    for begin in range(0, len(spelled), _BATCH):
        batch = spelled[begin : begin + _BATCH]
        answers = target.first_tokens([data for _, data in batch])
        for (token, _), first in zip(batch, answers, strict=True):
            # Text that the tokenizer cannot spell becomes its unknown token, which has no meaning.
            if first is not None and target.token_bytes[first] is not None:
                firsts[token] = first
        say(batch[-1][0] + 1)
    return firsts


def _join_ends(
    host: ByteVocabulary, expert: ByteVocabulary, first_expert: TokenArray, first_host: TokenArray
) -> TokenArray:
    """Make the ends of turn of both models one event; return the expert's end tokens."""
    if not host.end_ids or not expert.end_ids:
        return np.empty(0, dtype=np.int32)
    expert_ends = np.array(sorted(expert.end_ids), dtype=np.int32)
    first_expert[sorted(host.end_ids)] = expert_ends[0]
    first_host[expert_ends] = min(host.end_ids)
    return expert_ends


Array = npt.NDArray[Any]

#: Accepted content of the file: safetensors' names of types, and the arrays.
_DTYPES: dict[str, np.dtype[Any]] = {"I32": np.dtype("<i4"), "I64": np.dtype("<i8")}
_NAMES = tuple(field.name for field in fields(AlignmentMaps))

#: Bytes before the header that hold its length.
_LENGTH_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class KeptMaps:
    """Maps and their file.

    Attributes
    ----------
    maps : AlignmentMaps
        Read-only views of the file, whose pages all processes share.
    built : bool
        True if this call built them.
    """

    maps: AlignmentMaps
    file: Path
    built: bool


def load_maps(
    host: ByteVocabulary, expert: ByteVocabulary, *, folder: Path | None = None
) -> AlignmentMaps:
    """Return the maps of a pair: loaded from disk if present, else built and kept.

    Parameters and errors are those of `keep`, which also returns the file.
    """
    return keep(host, expert, folder=folder).maps


def keep(
    host: ByteVocabulary,
    expert: ByteVocabulary,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> KeptMaps:
    """Return the maps of a pair: loaded from disk if present and intact, else built and kept.

    Of several processes one builds the maps, and the others wait for it.

    Parameters
    ----------
    host, expert : ByteVocabulary
        The pair; the maps are kept under a key of both contents.
    folder : Path, optional
        The folder of maps; by default ``alignment`` in Floe's cache folder.
    progress : callable, optional
        Called while maps are built; see `build_maps`.

    Raises
    ------
    FloeError
        The folder cannot be written, or the file not read.
    """
    folder = folder or cache_dir() / "alignment"
    file = folder / f"{maps_key(host, expert)}.safetensors"
    try:
        if (maps := _read(file)) is not None:
            return KeptMaps(maps=maps, file=file, built=False)
        with files.locked(file.with_name(f"{file.name}.lock"), without_locks="fail"):
            # Another process may have built them while this one waited.
            if (maps := _read(file)) is not None:
                return KeptMaps(maps=maps, file=file, built=False)
            maps = build_maps(host, expert, progress=progress)
            _write(maps, file)
    except OSError as error:
        raise FloeError(
            f"The alignment maps cannot be kept in {str(folder)!r}: {error.strerror}; "
            f"{CACHE_VARIABLE} may name another cache folder."
        ) from error
    # Read what was just written, so that this process shares the pages too.
    return KeptMaps(maps=_read(file) or maps, file=file, built=True)


def _write(maps: AlignmentMaps, file: Path) -> None:
    arrays = {name: np.ascontiguousarray(getattr(maps, name)) for name in _NAMES}
    content = save(arrays, metadata={"sha256": "0" * 64})
    data = memoryview(content)[_data_begin(content) :]
    # The digest is in the header, which it does not cover; it keeps the length, so nothing moves.
    digest = hashlib.sha256(data).hexdigest()
    content = content.replace(b"0" * 64, digest.encode(), 1)
    # Readable for everyone who may read the folder.
    files.write_file(file, content, mode=0o666 & file.parent.stat().st_mode | 0o600)


def _read(file: Path) -> AlignmentMaps | None:
    """Map a file; None if it is missing, damaged or of another layout."""
    try:
        with file.open("rb") as opened:
            content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    # ValueError: an empty file cannot be mapped.
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    try:
        begin = _data_begin(content)
        header = json.loads(content[_LENGTH_BYTES:begin])
        data = memoryview(content)[begin:]
        if hashlib.sha256(data).hexdigest() != header["__metadata__"]["sha256"]:
            return None
        return AlignmentMaps(**{name: _array(data, header[name]) for name in _NAMES})
    # A damaged header may not be text, JSON or an object, or may have other fields.
    except (ValueError, KeyError, TypeError):
        return None


def _data_begin(content: bytes | mmap.mmap) -> int:
    return _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")


def _array(data: memoryview, entry: Mapping[str, Any]) -> Array:
    begin, end = entry["data_offsets"]
    array: Array = np.frombuffer(data[begin:end], dtype=_DTYPES[entry["dtype"]])
    return array.reshape(entry["shape"])
