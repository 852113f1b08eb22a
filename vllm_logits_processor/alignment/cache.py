"""Alignment maps on disk: built once per pair of tokenizers, then memory-mapped by everyone.

A pair's maps are one file in the safetensors format, whose metadata holds the SHA-256 of its data.
Readers see it complete or not at all: it is written beside and renamed. A file that is cut short,
changed or of another version is built anew.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from floe_plugins import files
from floe_plugins.errors import FloeError
from floe_plugins.system import CACHE_VARIABLE, cache_dir
from vllm_logits_processor.alignment.maps import AlignmentMaps, Progress, build_maps, maps_key
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary

Array = npt.NDArray[Any]

#: What the file may hold: safetensors' names of types, and the arrays.
_DTYPES: dict[str, np.dtype[Any]] = {"I32": np.dtype("<i4"), "I64": np.dtype("<i8")}
_NAMES = tuple(field.name for field in fields(AlignmentMaps))

#: The length of the header, in front of it.
_LENGTH_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class KeptMaps:
    """Maps and where they are kept.

    Attributes
    ----------
    maps : AlignmentMaps
        Read-only views of the file, whose pages all processes share.
    file : Path
    built : bool
        True where they had to be built by this call.
    """

    maps: AlignmentMaps
    file: Path
    built: bool


def load_maps(
    host: ByteVocabulary, expert: ByteVocabulary, *, folder: Path | None = None
) -> AlignmentMaps:
    """Return the maps of a pair, from disk if they are there, else built and kept.

    Parameters and errors are those of `keep`, which also says where they are kept.
    """
    return keep(host, expert, folder=folder).maps


def keep(
    host: ByteVocabulary,
    expert: ByteVocabulary,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> KeptMaps:
    """Return the maps of a pair, from disk if they are there and whole, else built and kept.

    Processes that ask at once wait for one builder.

    Parameters
    ----------
    host, expert : ByteVocabulary
        The pair; the maps are kept under a key of both contents.
    folder : Path, optional
        Where to keep maps; ``alignment`` in Floe's cache folder if not given.
    progress : callable, optional
        Told while maps are built; see `build_maps`.

    Raises
    ------
    FloeError
        If the folder cannot be written, or the file not read.
    """
    folder = folder or cache_dir() / "alignment"
    file = folder / f"{maps_key(host, expert)}.safetensors"
    try:
        if (maps := _read(file)) is not None:
            return KeptMaps(maps=maps, file=file, built=False)
        with files.locked(file.with_name(f"{file.name}.lock"), without_locks="fail"):
            # Another process may have been at it while this one waited.
            if (maps := _read(file)) is not None:
                return KeptMaps(maps=maps, file=file, built=False)
            maps = build_maps(host, expert, progress=progress)
            _write(maps, file)
    except OSError as error:
        raise FloeError(
            f"The alignment maps cannot be kept in {str(folder)!r}: {error.strerror}; "
            f"{CACHE_VARIABLE} may name another cache folder."
        ) from error
    # What was just written is read, so that this process shares the pages too.
    return KeptMaps(maps=_read(file) or maps, file=file, built=True)


def _write(maps: AlignmentMaps, file: Path) -> None:
    arrays = {name: np.ascontiguousarray(getattr(maps, name)) for name in _NAMES}
    content = save(arrays, metadata={"sha256": "0" * 64})
    data = memoryview(content)[_data_begin(content) :]
    # The digest stands in the header, which it does not cover: same length, so nothing moves.
    digest = hashlib.sha256(data).hexdigest()
    content = content.replace(b"0" * 64, digest.encode(), 1)
    # Whoever may read the folder may read this.
    files.write_file(file, content, mode=0o666 & file.parent.stat().st_mode | 0o600)


def _read(file: Path) -> AlignmentMaps | None:
    """Map a file; None where it is missing, damaged or of another layout."""
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
    # Anything may stand in a damaged header: no text, no JSON, no object, not our fields.
    except (ValueError, KeyError, TypeError):
        return None


def _data_begin(content: bytes | mmap.mmap) -> int:
    return _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")


def _array(data: memoryview, entry: Mapping[str, Any]) -> Array:
    begin, end = entry["data_offsets"]
    array: Array = np.frombuffer(data[begin:end], dtype=_DTYPES[entry["dtype"]])
    return array.reshape(entry["shape"])
