"""Keeps results: each is whole in a folder of its own, and one link says which is current.

The output folder::

    exports/round-0002/               a result: manifest, history, adapters
    exports/round-0004/
    exports/current                -> round-0004
    manifest.json                  -> exports/current/manifest.json
    history.json                   -> exports/current/history.json
    cluster-0                      -> exports/current/cluster-0

A result is written beside its place and renamed once the disk has it. It becomes current when its
link is renamed over the old one: a full disk or a server that dies leaves the old result or the new
one.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from floe_plugins import files
from floe_plugins.errors import ConfigError, FloeError
from flower_strategy.run_folder import round_name, round_of

EXPORTS_FOLDER = "exports"
CURRENT = "current"

_PREVIOUS = ".previous"
# Takes the place of the current result of the same round, which stays until it is replaced.
_SECOND = "-2"
_PROBE = ".links"

logger = logging.getLogger("flwr")


class ExportError(FloeError):
    """A result cannot be written; the message names its folder."""


class ResultFolders:
    """The results in an output folder, which the caller has locked.

    Parameters
    ----------
    output : Path
        The output folder; made when absent.
    after : int
        The last finished round of the run, -1 of a new one. Results of later rounds are those of
        another run, or of rounds that are repeated. They are removed once this run has adapters,
        save for the one that these replace, which a reader may still have open.

    Raises
    ------
    ConfigError
        The folder cannot be written, or its file system has no symbolic links.
    """

    def __init__(self, output: Path, *, after: int) -> None:
        self._output = output
        self._folder = output / EXPORTS_FOLDER
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            files.remove_all_parts(self._folder)
            files.replace_link(self._folder / _PROBE, CURRENT)
            (self._folder / _PROBE).unlink()
        except OSError as error:
            raise ConfigError(
                f"The folder {self._folder} cannot be written, or has no symbolic links "
                f"({error.strerror}): choose another output."
            ) from error
        rounds = {name: round_of(name) for name in os.listdir(self._folder)}
        self._stale = {name for name, of in rounds.items() if of is not None and of > after}

    @contextmanager
    def new(self, server_round: int) -> Iterator[Path]:
        """Yield an empty folder for a result, and make it the current one at the end of the block.

        Parameters
        ----------
        server_round : int
            The last round of the result.

        Raises
        ------
        ExportError
            It cannot be written; the earlier result stays current.
        """
        before = self._current()
        name = round_name(server_round)
        target = self._folder / (name + _SECOND if name == before else name)
        try:
            with files.new_folder(target, replace=True, durable=True) as part:
                yield part
            self._make_current(target)
        except OSError as error:
            raise ExportError(
                f"The result of round {server_round} cannot be written to {target} "
                f"({error.strerror or error}); what {self._output} held before is unchanged."
            ) from error
        self._remove_old(target, before)

    def _current(self) -> str | None:
        link = self._folder / CURRENT
        return os.readlink(link) if link.is_symlink() else None

    def _make_current(self, target: Path) -> None:
        # The manifest first: where a copy of a result is in the way, none is read in between.
        for name in sorted(os.listdir(target), reverse=True):
            link = self._output / name
            if not _is_ours(link):
                _put_aside(link)
                link.symlink_to(_through_current(name))
        files.sync_folder(self._output)
        current = self._folder / CURRENT
        if not current.is_symlink():
            _put_aside(current)
        files.replace_link(current, target.name, durable=True)

    def _remove_old(self, target: Path, before: str | None) -> None:
        """Remove links to clusters that are gone, and results of other runs."""
        self._stale.discard(target.name)
        try:
            for path in self._output.iterdir():
                if _is_ours(path) and not path.exists():
                    path.unlink()
            if any(path.is_dir() for path in target.iterdir()):
                for name in sorted(self._stale - {before}):
                    shutil.rmtree(self._folder / name)
                    self._stale.discard(name)
        except OSError as error:
            logger.warning("An old result cannot be removed: %s.", error)


def _through_current(name: str) -> str:
    return f"{EXPORTS_FOLDER}/{CURRENT}/{name}"


def _is_ours(link: Path) -> bool:
    return link.is_symlink() and os.readlink(link) == _through_current(link.name)


def _put_aside(path: Path) -> None:
    """Rename what is in the way of a link: a folder that was copied holds files in their place."""
    if not os.path.lexists(path):
        return
    aside = path.with_name(path.name + _PREVIOUS)
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink(missing_ok=True)
    path.rename(aside)
