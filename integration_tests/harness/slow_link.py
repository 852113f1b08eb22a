"""A TCP link on loopback that counts bytes, and may let only so many a second through."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

_PIECE = 1024


@dataclass
class Traffic:
    """The bytes that have passed a link: up, from who connects, and down."""

    up: int = 0
    down: int = 0

    def taken(self) -> tuple[int, int]:
        """Return the bytes up and down since the last call of this."""
        both = self.up, self.down
        self.up = self.down = 0
        return both


@contextmanager
def slow_link(
    port: int, *, bytes_per_second: float = 0.0, traffic: Traffic | None = None
) -> Iterator[int]:
    """Give a port whose connections lead to another one of this machine.

    Parameters
    ----------
    port : int
        Where they lead.
    bytes_per_second : float
        Of each connection, from who connects; the other way is as fast as loopback. A rate of 0
        sets no limit.
    traffic : Traffic, optional
        Counts the bytes before they are passed on.
    """
    traffic = traffic or Traffic()
    with socket.create_server(("127.0.0.1", 0)) as server:
        arguments = (server, port, bytes_per_second, traffic)
        threading.Thread(target=_accept, args=arguments, daemon=True).start()
        try:
            yield server.getsockname()[1]
        finally:
            # Closing alone does not wake the thread.
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)


def _accept(server: socket.socket, port: int, bytes_per_second: float, traffic: Traffic) -> None:
    def count_up(size: int) -> None:
        traffic.up += size

    def count_down(size: int) -> None:
        traffic.down += size

    while True:
        try:
            near, _ = server.accept()
        except OSError:
            return
        try:
            far = socket.create_connection(("127.0.0.1", port))
        except OSError:
            near.close()
            continue
        for end in (near, far):
            # A request's second part would else wait until the first is acknowledged.
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for way in ((near, far, bytes_per_second, count_up), (far, near, 0.0, count_down)):
            threading.Thread(target=_pass_on, args=way, daemon=True).start()


def _pass_on(
    source: socket.socket,
    target: socket.socket,
    bytes_per_second: float,
    count: Callable[[int], None],
) -> None:
    """Pass on what comes until one end closes."""
    with suppress(OSError):
        while piece := source.recv(_PIECE if bytes_per_second else 64 * _PIECE):
            count(len(piece))
            if bytes_per_second:
                time.sleep(len(piece) / bytes_per_second)
            target.sendall(piece)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
