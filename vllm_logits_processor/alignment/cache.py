"""Alignment maps on disk: built once per pair of tokenizers, then memory-mapped by everyone."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from floe_plugins.paths import cache_dir
from vllm_logits_processor.alignment.maps import AlignmentMaps, build_maps, maps_key
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary


def load_maps(
    host: ByteVocabulary, expert: ByteVocabulary, *, folder: Path | None = None
) -> AlignmentMaps:
    """Return the maps of a pair, from disk if they are there, else built and kept.

    Processes that ask at once wait for one builder. The folder appears complete or not at all.

    Parameters
    ----------
    host, expert : ByteVocabulary
        The pair; the maps are kept under a key of both contents.
    folder : Path, optional
        Where to keep maps; ``alignment`` in Floe's cache folder if not given.
    """
    folder = folder or cache_dir() / "alignment"
    target = folder / maps_key(host, expert)
    if not target.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.is_dir():
                _write(build_maps(host, expert), target)
    return AlignmentMaps(
        **{field.name: _map(target / f"{field.name}.npy") for field in fields(AlignmentMaps)}
    )


def _map(path: Path) -> Any:
    """Map an array; small ones are read, since an empty one cannot be mapped."""
    return np.load(path, mmap_mode="r" if path.stat().st_size > 4096 else None)


def _write(maps: AlignmentMaps, target: Path) -> None:
    beside = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        for field in fields(AlignmentMaps):
            np.save(beside / f"{field.name}.npy", getattr(maps, field.name))
        beside.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
