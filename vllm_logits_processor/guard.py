"""The privacy gate where bytes leave: whether a stream's text may go to the expert."""

from __future__ import annotations

from dataclasses import dataclass

from floe_plugins.gate import Decision, Gate

#: Bytes before the newest ones that are scanned again with them; longer than any pattern.
WINDOW = 1024


@dataclass
class StreamGuard:
    """Clears a stream's prompt once and its generated text in a rolling window; latches on a no.

    Parameters
    ----------
    gate : Gate or None
        None for a trusted expert, to which everything may go.
    """

    gate: Gate | None
    _scanned: int = 0
    _private: bool = False

    def clears(self, text: bytes | bytearray) -> bool:
        """Scan what is new in `text` and tell whether the whole of it may leave.

        Anything but a clear verdict is a no, for this stream for good.
        """
        if self.gate is None:
            return True
        if self._private or len(text) == self._scanned:
            return not self._private
        begin = max(0, self._scanned - WINDOW) if self._scanned else 0
        self._private = not self._clear(bytes(text[begin:]), starts_inside=begin > 0)
        self._scanned = len(text)
        return not self._private

    def _clear(self, data: bytes, *, starts_inside: bool) -> bool:
        assert self.gate is not None
        try:
            decoded = _whole_characters(data, starts_inside=starts_inside).decode("utf-8")
        except UnicodeDecodeError:
            # Broken bytes between two characters could hide anything from a detector.
            return False
        return self.gate.decide(decoded).decision is Decision.CLEAR


def _whole_characters(data: bytes, *, starts_inside: bool) -> bytes:
    """Cut the halves of characters that a window or an unfinished stream begins and ends with."""
    begin = 0
    while starts_inside and begin < min(3, len(data)) and data[begin] & 0xC0 == 0x80:
        begin += 1
    for back in range(1, min(4, len(data) - begin) + 1):
        lead = data[-back]
        if lead & 0xC0 == 0x80:
            continue
        width = 1 if lead < 0x80 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
        return data[begin:-back] if back < width else data[begin:]
    return data[begin:]
