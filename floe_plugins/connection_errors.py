"""What httpcore raises when a server cannot be asked: its errors have no base of their own."""

import httpcore

CONNECTION_ERRORS = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
)
