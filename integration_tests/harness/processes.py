"""Child processes that never outlive the process that started them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol


class Child(Protocol):
    """A process that leads its own group: one of `spawn`, or a fork of a prepared one."""

    @property
    def pid(self) -> int:
        """Its number, which is also its group's."""

    @property
    def returncode(self) -> int | None:
        """Its exit status once it has ended, and `poll` or `wait` was called."""

    def poll(self) -> int | None:
        """Return its exit status, or None while it lives."""

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit status once it has ended."""


def interrupt_on_signals() -> None:
    """Have SIGTERM and SIGINT raise `KeyboardInterrupt`, so that what was started is ended.

    For commands: a supervisor ends them by SIGTERM, which Python takes without leaving any
    ``with``; and a shell that starts them in the background has them ignore SIGINT.
    """
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.default_int_handler)


def free_port() -> int:
    """Return a loopback TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def spawn(
    command: Sequence[str], *, log: Path, env: Mapping[str, str], cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start `command` as the leader of its own process group, with its output in `log`."""
    with log.open("ab") as sink:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env},
            cwd=cwd,
            start_new_session=True,
        )


def end(process: Child, *, grace_s: float = 15.0) -> None:
    """End a process and all of its group: first politely, then by force."""
    for signum, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        if not _group_lives(process.pid):
            break
        os.killpg(process.pid, signum)
        deadline = time.monotonic() + wait_s
        while _group_lives(process.pid) and time.monotonic() < deadline:
            process.poll()  # a zombie leader keeps its group alive
            time.sleep(0.05)
    process.wait(timeout=5)


def end_all(processes: Iterable[Child], *, grace_s: float = 15.0) -> None:
    """End several, side by side; one that cannot be ended leaves the others to be ended."""
    with contextlib.ExitStack() as stack:
        for process in processes:
            stack.callback(end, process, grace_s=grace_s)
            if _group_lives(process.pid):
                os.killpg(process.pid, signal.SIGTERM)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def tail(log: Path, lines: int = 25) -> str:
    """Return the last lines of a log, for messages."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
