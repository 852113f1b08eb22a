"""Text that a device sends, before it gets into a log, a history or a report."""

from __future__ import annotations


def device_text(text: object, *, most: int) -> str:
    """Return what a device says as one line of at most `most` characters.

    Line feeds would let it write lines of the server's log, and escape sequences would be obeyed by
    the terminal that shows it: what cannot be printed becomes a space.
    """
    return "".join(sign if sign.isprintable() else " " for sign in str(text)[:most])
