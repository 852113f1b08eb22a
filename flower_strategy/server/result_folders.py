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

Where the files of a result stand in the output folder themselves, as in one that ``cp -rL`` has
copied, they are first copied to ``exports/previous``, which becomes current. Then links take their
places, one after the other: all that time every path shows that result.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from floe_plugins import files
from floe_plugins.errors import ConfigError, FloeError
from flower_strategy.run_folder import round_name, round_of

EXPORTS_FOLDER = "exports"
CURRENT = "current"

_PREVIOUS = "previous"
_RESULT = re.compile(r"manifest\.json|history\.json|cluster-\d+")
"""Names of a result at the top of the output folder."""
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
        The folder cannot be written, its file system has no symbolic links, or a file of its name
        is in the way.
    """

    def __init__(self, output: Path, *, after: int) -> None:
        self._output = output
        self._folder = output / EXPORTS_FOLDER
        if self._folder.is_file():
            raise ConfigError(
                f"{self._folder} is a file, and results are kept in a folder of this name: move "
                "the file, or choose another output."
            )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._show_current()
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
        # Of two copies the second was made of the first.
        second = _PREVIOUS + _SECOND
        self._stale |= rounds.keys() & {_PREVIOUS if self._current() == second else second}

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

    def _show_current(self) -> None:
        """Link what a process that was killed has left without its link."""
        if self._current() is not None and (self._folder / CURRENT).is_dir():
            for name in os.listdir(self._folder / CURRENT):
                self._show(name)

    def _show(self, name: str) -> None:
        if not os.path.lexists(self._output / name):
            (self._output / name).symlink_to(_through_current(name))

    def _make_current(self, target: Path) -> None:
        self._take_over(set(os.listdir(target)))
        for name in os.listdir(target):
            self._show(name)
        files.sync_folder(self._output)
        files.replace_link(self._folder / CURRENT, target.name, durable=True)

    def _take_over(self, names: set[str]) -> None:
        """Put links in the place of a result's files, and show the same as before through them.

        Parameters
        ----------
        names : set[str]
            What the next result has beside names of results.
        """
        current = self._folder / CURRENT
        at_top = [
            path
            for path in self._output.iterdir()
            if path.name in names or _RESULT.fullmatch(path.name)
        ]
        in_the_way = [path for path in at_top if not _is_ours(path)]
        linked = current.is_symlink() or not os.path.lexists(current)
        if linked and not in_the_way:
            return
        if any(path.exists() for path in at_top):
            name = self._copy_of([path for path in at_top if path.exists()])
            if current.is_dir() and not current.is_symlink():
                files.replace_by_link(current, name, parts=self._folder)
            else:
                _put_aside(current)
                files.replace_link(current, name, durable=True)
        else:
            _put_aside(current)
        for path in in_the_way:
            files.replace_by_link(path, _through_current(path.name), parts=self._folder)

    def _copy_of(self, paths: list[Path]) -> str:
        """Copy what the top of the output folder shows; return the copy's name."""
        first, second = _PREVIOUS, _PREVIOUS + _SECOND
        name, other = (second, first) if self._current() == first else (first, second)
        with files.new_folder(self._folder / name, replace=True, durable=True) as part:
            for path in paths:
                _copy(path, part / path.name)
        if (self._folder / other).is_dir():
            self._stale.add(other)
        return name

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


def _copy(path: Path, target: Path) -> None:
    """Copy a file or folder; files are linked where that works, since nothing writes into them."""
    if path.is_dir():
        target.mkdir()
        for inner in path.iterdir():
            _copy(inner, target / inner.name)
        return
    try:
        os.link(path.resolve(), target)
    except OSError:
        # No hard links, another file system, or another user's file.
        shutil.copy2(path, target)


def _put_aside(path: Path) -> None:
    """Rename what is in the way of a link, unless it is a link."""
    if path.is_symlink() or not path.exists():
        return
    aside = path.with_name(f"{path.name}.{_PREVIOUS}")
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink(missing_ok=True)
    path.rename(aside)
