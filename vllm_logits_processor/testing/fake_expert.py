"""A server for tests that answers completions calls as a test sets: late, broken or well.

It produces the faults that no real server produces on demand; integration_tests run real servers.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from vllm_logits_processor.testing.threaded_server import serving_in_thread

Answer = Callable[[dict[str, Any]], bytes]


def completion(*prompts: list[dict[int, float]]) -> bytes:
    """Return the body of a completions reply: per prompt, a (token id: logprob) row per step.

    The expert's own token of a step is the first of its row.
    """
    choices = [
        {
            "index": place,
            "text": "",
            "logprobs": {
                "tokens": [f"token_id:{next(iter(row), 0)}" for row in rows],
                "top_logprobs": [
                    {f"token_id:{token}": logprob for token, logprob in row.items()} for row in rows
                ],
            },
        }
        for place, rows in enumerate(prompts)
    ]
    return json.dumps({"choices": choices}).encode()


@dataclass
class FakeExpert:
    """The server's behaviour, and the requests that it received."""

    answer: Answer
    status: int = 200
    delay_s: float = 0.0
    closes: bool = False
    #: An unknown field, which the server answers with HTTP 400.
    refuses: str = ""
    #: Seconds between the bytes of a reply; and whether it ends in the middle.
    drips_s: float = 0.0
    breaks: bool = False
    #: Whether connections are reset before any reply.
    refuses_connections: bool = False
    #: Whose server it says it is; empty if it does not say.
    owned_by: str = "vllm"
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    connections: set[tuple[str, int]] = field(default_factory=set)


@contextmanager
def fake_expert(
    answer: Answer, *, tls: ssl.SSLContext | None = None, port: int = 0
) -> Iterator[FakeExpert]:
    """Run a server on a loopback port, a free one if none is given; with TLS if a context is."""
    state = FakeExpert(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            if state.refuses_connections:
                self.close_connection = True
                self.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                self.connection.close()
                return
            try:
                super().handle_one_request()
            except ConnectionResetError:
                self.close_connection = True

        def do_GET(self) -> None:
            # Who it is, unless it hides that; only calls for tokens are counted.
            if self.path.endswith("/models") and state.owned_by:
                body = json.dumps({"data": [{"id": "slm", "owned_by": state.owned_by}]}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            else:
                self.send_error(404)

        def do_POST(self) -> None:
            if not self.path.endswith("/completions"):
                # Like a server that does not describe its tokenizer.
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_error(404)
                return
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.requests.append(body)
            state.headers.append(dict(self.headers))
            state.connections.add(self.client_address)
            time.sleep(state.delay_s)
            # Closes without notice, as servers close idle connections.
            self.close_connection = state.closes
            reply = state.answer(body)
            try:
                self.send_response(400 if state.refuses in body else state.status)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.write(reply)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def write(self, reply: bytes) -> None:
            if state.breaks:
                self.close_connection = True
                reply = reply[: len(reply) // 2]
            if not state.drips_s:
                self.wfile.write(reply)
                return
            for byte in reply:
                self.wfile.write(bytes([byte]))
                if state.drips_s:
                    time.sleep(state.drips_s)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    class Server(ThreadingHTTPServer):
        # The default of 5 makes the sixth of several calls at once wait for a second.
        request_queue_size = 64

    server = Server(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    state.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}/v1"
    with serving_in_thread(server):
        yield state


class Authority:
    """A certificate authority of the test's own.

    Parameters
    ----------
    folder : Path
        For its certificate and those that it issues.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Floe's test authority")])
        self.file = folder / "ca.pem"
        self.file.write_bytes(self._certificate(self._name, self._key, ca=True))

    def vouches(
        self, *, address: str = "127.0.0.1", days: tuple[int, int] = (-1, 1), itself: bool = False
    ) -> ssl.SSLContext:
        """Return the context of a server with a certificate.

        Parameters
        ----------
        address : str
            The IP address of the certificate.
        days : tuple of int
            First and last day of its validity, relative to today.
        itself : bool
            Whether the certificate is self-signed.
        """
        own = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "expert")])
        certificate = self._certificate(
            subject, own, address=address, days=days, issuer=(subject, own) if itself else None
        )
        key = own.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        file = self._folder / "server.pem"
        file.write_bytes(certificate + key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _certificate(
        self,
        subject: x509.Name,
        of: ec.EllipticCurvePrivateKey,
        *,
        ca: bool = False,
        address: str = "127.0.0.1",
        days: tuple[int, int] = (-1, 1),
        issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None = None,
    ) -> bytes:
        name, key = issuer or (self._name, self._key)
        today = datetime.datetime.now(datetime.UTC)
        built = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name)
            .public_key(of.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(today + datetime.timedelta(days=days[0]))
            .not_valid_after(today + datetime.timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]),
                critical=False,
            )
            .sign(key, hashes.SHA256())
        )
        return built.public_bytes(serialization.Encoding.PEM)
