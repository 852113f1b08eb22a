"""The errors of a server that cannot be reached, and their causes in words."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator

import httpcore

#: httpcore's errors have no common base class.
CONNECTION_ERRORS = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
)

_OWN_CA = "name its certificate, or that of its authority, in ca_file"
#: By OpenSSL's error number for a certificate (X509_V_ERR_...).
_CERTIFICATES = {
    9: "its certificate is not valid yet: compare the clocks",
    10: "its certificate has expired: renew it",
    18: f"its certificate is self-signed: {_OWN_CA}",
    19: f"its certificate is from an authority that is not trusted here: {_OWN_CA}",
    20: f"its certificate is from an authority that is not known here: {_OWN_CA}",
    21: f"its certificate cannot be verified: {_OWN_CA}",
    62: "its certificate is for another host name: write the name that it is for",
    64: "its certificate is for another address: write the name or address that it is for",
}
_CLOSED = "it closed the connection"
_NO_HTTP = "it closed the connection without an answer, or does not speak HTTP"
_CUT_OFF = (_CLOSED, _NO_HTTP)
_ERRNOS = {
    errno.ECONNREFUSED: "nobody listens there (connection refused)",
    errno.ECONNRESET: _CLOSED,
    errno.EHOSTUNREACH: "there is no route to it",
    errno.ENETUNREACH: "there is no route to its network",
    errno.ETIMEDOUT: "it could not be reached in time",
}
#: By OpenSSL's reason for a first record that is not TLS.
_NOT_TLS = (
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "PACKET_LENGTH_TOO_LONG",
    "RECORD_LAYER_FAILURE",
)
#: How h11 quotes the first bytes of a TLS alert or record where an HTTP status line should be.
_TLS_RECORDS = (r"\x15\x03", r"\x16\x03")
_MOST_CAUSES = 50


def cause_of(error: BaseException, *, url: str) -> str:
    """Return why a request failed: no full stop, and nothing that was sent or received.

    Parameters
    ----------
    error : BaseException
        One of `CONNECTION_ERRORS`, a `TimeoutError` or an `OSError`.
    url : str
        The address. A server that speaks TLS closes a connection of plain HTTP without an answer.

    Returns
    -------
    str
        A clause about the server, with a remedy where one is known; the type of the error if its
        cause is unknown.
    """
    for each in _causes(error):
        known = _known(each)
        if known is not None:
            cut = known in _CUT_OFF and url.startswith("http://")
            return f"{known}; where it speaks TLS, write https://" if cut else known
    return type(error).__name__


def _known(error: BaseException) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _CERTIFICATES.get(error.verify_code, f"its certificate is refused: {_OWN_CA}")
    if isinstance(error, ssl.SSLError):
        if error.reason in _NOT_TLS:
            return "it speaks plain HTTP, not TLS: write http:// instead of https://"
        return f"no TLS connection comes about ({error.reason or type(error).__name__})"
    if isinstance(error, socket.gaierror):
        return "its host name is not known here (DNS)"
    if isinstance(error, httpcore.RemoteProtocolError):
        if any(record in str(error) for record in _TLS_RECORDS):
            return "it speaks TLS: write https:// instead of http://"
        return _NO_HTTP
    if isinstance(error, httpcore.ConnectTimeout):
        return "it could not be reached in time"
    if isinstance(error, httpcore.TimeoutException | TimeoutError):
        return "it did not answer in time"
    return _ERRNOS.get(error.errno or 0) if isinstance(error, OSError) else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the causes of an error, the innermost ones first, and then the error itself."""
    found: list[BaseException] = []
    waiting = [error]
    while waiting and len(found) < _MOST_CAUSES:
        each = waiting.pop(0)
        found.append(each)
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions
        waiting += [next_ for next_ in (each.__cause__, each.__context__) if next_ is not None]
    yield from reversed(found)
