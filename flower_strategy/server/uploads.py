"""What devices have last sent, kept on the disk.

A device sends all that its own adapter has learned since it began. A cluster's adapter is the mean
of what its devices last sent, also in rounds in which some of them do not train: without the
others' share, a round with a tenth of the devices would take back what the rest has learned. The
files are as large as the uploads and are read one by one, so the server's memory does not grow
with the number of devices.

A device begins on top of its cluster's adapter as it is then. It stands in the mean for that
adapter, its *anchor*, plus its own: a device that joins late, or has lost its state, does not pull
the mean towards zero. In a run's first round the anchor is nothing.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord
from safetensors import SafetensorError
from safetensors.numpy import load, save

from floe_plugins import files
from floe_plugins.errors import FloeError
from flower_strategy.adapters.adapter import AdapterState
from flower_strategy.adapters.arrays import to_numpy
from flower_strategy.messages import read_adapter

logger = logging.getLogger("flwr")

UPLOADS_FOLDER = "uploads"
UPLOADS_FILE = "uploads.json"
"""In a checkpoint: the names of the files that it needs."""

_COPY_TOO = (
    f"where a run's checkpoints are copied, their folder {UPLOADS_FOLDER}/ must be copied too"
)
_SUFFIX = ".safetensors"
_UNSAFE = re.compile(r"[^\w.-]")


class UploadError(FloeError, OSError):
    """A kept upload cannot be written or read."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What the server knows of a device's own adapter.

    Attributes
    ----------
    began : int
        The round in which the device began it.
    anchor : str
        Name of the cluster's adapter that it began on; empty for none.
    round : int
        The round of the last upload.
    counted : int
        The round of the last upload that was in the cluster's adapter; 0 if none was.
    file : str
        Name of the last upload.
    scaling : float
        The adapter's scaling.
    kept : float
        Share of it that counts, in [0, 1], see `flower_strategy.server.update_norms`.
    move : float
        The sum of the learning rates of the steps asked for since it began.
    highest_move : float
        The same with the run's highest learning rate in every step.
    missed : int
        Rounds since the last upload in which the device was away, or did not reply well.
    """

    began: int
    anchor: str = ""
    round: int = 0
    counted: int = 0
    file: str = ""
    scaling: float = 1.0
    kept: float = 1.0
    move: float = 0.0
    highest_move: float = 0.0
    missed: int = 0

    def after_a_miss(self) -> Upload:
        """Return this upload after a round without another one."""
        return replace(self, missed=self.missed + 1)


class UploadStore:
    """Adapters in files of one folder; a file never changes.

    Parameters
    ----------
    folder : Path, optional
        Made when the first file is written; by default a temporary one, which lasts as long as
        this object.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._unsynced: list[Path] = []

    @property
    def folder(self) -> Path:
        """Where the files are."""
        if self._folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="floe-uploads-")
            self._folder = Path(self._temporary.name)
        return self._folder

    def write(self, name: str, arrays: ArrayRecord) -> str:
        """Write an adapter's arrays; return the file's name.

        Raises
        ------
        UploadError
            The disk does not take it.
        """
        file = _UNSAFE.sub("-", name) + _SUFFIX
        content = save(
            {key: np.ascontiguousarray(to_numpy(array)) for key, array in arrays.items()}
        )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            files.write_file(self.folder / file, content)
        except OSError as error:
            raise UploadError(
                f"The upload {file} cannot be kept in {self.folder}: {error}."
            ) from error
        if self._temporary is None:
            self._unsynced.append(self.folder / file)
        return file

    def sync(self) -> None:
        """Wait until the disk has all files, as a checkpoint that names them needs.

        Raises
        ------
        OSError
            It does not take them.
        """
        for path in self._unsynced:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if self._unsynced:
            files.sync_folder(self.folder)
        self._unsynced.clear()

    def read(self, file: str, *, scaling: float = 1.0) -> AdapterState:
        """Return the adapter in a file.

        Raises
        ------
        UploadError
            It is not there or cannot be read.
        AdapterError
            It holds no adapter.
        """
        try:
            arrays = load((self.folder / file).read_bytes())
        except (OSError, SafetensorError) as error:
            raise UploadError(f"The upload {file} in {self.folder} is gone: {error}.") from error
        record = ArrayRecord({key: Array(array) for key, array in arrays.items()})
        return read_adapter(record, scaling=scaling)

    def keep_only(self, names: Iterable[str]) -> None:
        """Remove all files but these, and those that checkpoints beside the folder need."""
        if self._folder is None or not self._folder.is_dir():
            return
        kept = set(names)
        if self._temporary is None:
            for listed in self._folder.parent.glob(f"round-*/{UPLOADS_FILE}"):
                kept |= checkpoint_files(listed.parent)
        for path in self._folder.glob(f"*{_SUFFIX}"):
            if path.name not in kept:
                path.unlink(missing_ok=True)
        # A round whose checkpoint could not be written leaves files that no later one needs.
        self._unsynced = [path for path in self._unsynced if path.name in kept]

    def take_over(self, uploads: Mapping[int, Upload], other: Path) -> None:
        """Take a run's files over from another folder, as links where the file system has them.

        An upload that is missing there costs its device's share until it trains again; a warning
        says so. Without an anchor nobody knows what a device stands for.

        Raises
        ------
        UploadError
            An anchor is missing there, or a file cannot be copied.
        """
        anchors = {upload.anchor for upload in uploads.values()}
        missing = [name for name in sorted(files_of(uploads)) if not self._has(name, other)]
        if gone := [name for name in missing if name in anchors]:
            raise UploadError(
                f"{other} lacks {gone[0]}, an adapter on which devices began: {_COPY_TOO}."
            )
        if missing:
            logger.warning(
                "%s lacks %d of the uploads that the checkpoint names, among them %s: their "
                "devices count again when they have trained. %s.",
                other,
                len(missing),
                missing[0],
                _COPY_TOO.capitalize(),
            )

    def _has(self, name: str, other: Path) -> bool:
        """Take a file over; return whether it is there.

        Raises
        ------
        UploadError
            It cannot be copied.
        """
        here = self.folder / name
        if here.exists():
            return True
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                os.link(other / name, here)
            except OSError:
                shutil.copyfile(other / name, here)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise UploadError(
                f"The upload {name} cannot be taken over from {other}: {error}."
            ) from error
        return True


def checkpoint_files(checkpoint: Path) -> set[str]:
    """Return the names of the files that a checkpoint needs."""
    return set(json.loads((checkpoint / UPLOADS_FILE).read_text("utf-8")))


def files_of(uploads: Mapping[int, Upload]) -> set[str]:
    """Return the names of all files that uploads need."""
    names = (name for upload in uploads.values() for name in (upload.file, upload.anchor))
    return {name for name in names if name}
