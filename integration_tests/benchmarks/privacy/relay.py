"""A relay between the device and the cloud that records every request byte for byte."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Request:
    """What one request was, byte for byte."""

    head: bytes  # request line and headers, with the empty line behind them
    body: bytes

    @property
    def size(self) -> int:
        return len(self.head) + len(self.body)


class Relay:
    """Passes HTTP/1.1 on in both directions.

    Its `url` stands for that of the server behind it, `upstream`, which need not run yet.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream)
        self._requests: list[Request] = []
        self._talks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.url = ""

    def taken(self) -> list[Request]:
        """Return the requests since the last call of this, and forget them."""
        taken, self._requests = self._requests, []
        return taken

    async def start(self) -> None:
        """Listen on a free loopback port."""
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = self._upstream._replace(netloc=f"127.0.0.1:{port}").geturl()

    async def stop(self) -> None:
        """Close all connections."""
        if self._server is not None:
            self._server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        try:
            await self._pass_on(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # one of the two sides is not there or has closed the connection
        finally:
            self._talks.discard(task)
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, onward = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        back = asyncio.create_task(_copy(theirs, writer))
        try:
            while True:
                request = await _read(reader)
                self._requests.append(request)
                onward.write(request.head + request.body)
                await onward.drain()
        finally:
            back.cancel()
            onward.close()


@contextmanager
def relay(upstream: str) -> Iterator[Relay]:
    """Run a relay in a separate thread."""
    loop, made = asyncio.new_event_loop(), Relay(upstream)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(made.start(), loop).result(timeout=10)
        yield made
    finally:
        asyncio.run_coroutine_threadsafe(made.stop(), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()


async def _read(reader: asyncio.StreamReader) -> Request:
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(
        line.lower().split(":", 1) for line in head.decode("latin-1").split("\r\n")[1:] if line
    )
    return Request(head, await reader.readexactly(int(fields.get("content-length", "0"))))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    # What the server has closed is closed for the client too.
    writer.close()
