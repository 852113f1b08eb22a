"""A TCP link on loopback that lets so many bytes a second through on the way up."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PIECE = 1024


@contextmanager
def slow_link(port: int, *, bytes_per_second: float) -> Iterator[int]:
    """Give a port whose connections lead to another one of this machine.

    Parameters
    ----------
    port : int
        Where they lead.
    bytes_per_second : float
        Of each connection, from who connects; the other way is as fast as loopback.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_accept, args=(server, port, bytes_per_second), daemon=True).start()
        try:
            yield server.getsockname()[1]
        finally:
            # Closing alone does not wake the thread.
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)


def _accept(server: socket.socket, port: int, bytes_per_second: float) -> None:
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
        for source, target, rate in ((near, far, bytes_per_second), (far, near, 0.0)):
            threading.Thread(target=_pass_on, args=(source, target, rate), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket, bytes_per_second: float) -> None:
    """Pass on what comes until one end closes; a rate of 0 sets no limit."""
    with suppress(OSError):
        while piece := source.recv(_PIECE if bytes_per_second else 64 * _PIECE):
            if bytes_per_second:
                time.sleep(len(piece) / bytes_per_second)
            target.sendall(piece)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
