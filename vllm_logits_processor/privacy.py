"""The privacy gate of the server, and of a stream: whether its text may go to the expert."""

from __future__ import annotations

import re
from dataclasses import dataclass

from floe_plugins.gate import Decision, Gate
from vllm_logits_processor.config import FloeConfig

#: Fewest characters before new text that are scanned again with it. The longest structured value is
#: shorter, even spelled out, encoded or spaced out.
WINDOW = 512

# Most characters by which the window's beginning may move to that of a word.
_WORD = 64
_WORST_BYTES = 4

# Ends of text that the next tokens may complete to a value: five or more digits, part of an e-mail
# address, the prefix of a key.
_BEGUN = re.compile(
    r"(?:\d[ \t\n()./,_-]{0,2}){5,24}\Z"
    r"|[\w.+-]@[\w.-]{0,64}\Z"
    r"|(?<![A-Za-z0-9])(?:sk-|gh[pousr]_|glpat-|AKIA|ASIA|AIza|xox[a-z]-|hf_|eyJ)[\w.-]{0,64}\Z"
    r"|-----BEGIN[A-Z ]{0,40}\Z",
)
_BEGUN_CHARS = 80


def gate_of(config: FloeConfig) -> Gate | None:
    """Return the gate that judges what the expert may see; None where it may see everything."""
    if config.expert.sees_everything:
        return None
    # Detectors by name, so that the log names the plugin of one that fails.
    return Gate(
        profile=config.gate_profile,
        detectors=config.detectors,
        plugins=config.plugins,
        timeout_s=config.gate_timeout_s,
    )


@dataclass
class StreamPrivacy:
    """Clears a stream's prompt once and its generated text in a rolling window; a refusal is final.

    Text that has left cannot be recalled, and the beginning of a value would leave before the value
    can be recognised. So nothing leaves while the generated text ends in what may become a value,
    such as five digits: the host decodes these tokens alone and does not wait.

    Parameters
    ----------
    gate : Gate or None
        None for a trusted expert, which may see everything.
    """

    gate: Gate | None
    _scanned: int = 0
    _private: bool = False
    _held: bool = False

    def clears(self, text: bytes | bytearray) -> bool:
        """Scan the new part of `text` and return whether all of the text may leave.

        Any verdict but clear is a refusal for the rest of the stream.
        """
        if self.gate is None:
            return True
        if not self._private and len(text) != self._scanned:
            # A prompt is complete, so nothing of it is held back.
            self._held = self._scanned > 0 and _begins_a_value(text)
            self._private = not self._clear(text)
            self._scanned = len(text)
        return not (self._private or self._held)

    def _clear(self, text: bytes | bytearray) -> bool:
        assert self.gate is not None
        size = max(WINDOW, self.gate.longest) + _WORD
        begin = max(0, self._scanned - _WORST_BYTES * size) if self._scanned else 0
        try:
            new = len(_decoded(text[self._scanned :], starts_inside=self._scanned > 0))
            seen = _decoded(text[begin:], starts_inside=begin > 0)
        except UnicodeDecodeError:
            # Invalid bytes between two characters could hide anything from a detector.
            return False
        if self._scanned:
            seen = _from_word(seen, max(0, len(seen) - new - size))
        return self.gate.decide(seen).decision is Decision.CLEAR


def _begins_a_value(text: bytes | bytearray) -> bool:
    end = text[-_WORST_BYTES * _BEGUN_CHARS :].decode("utf-8", "ignore")
    return _BEGUN.search(end[-_BEGUN_CHARS:]) is not None


def _from_word(text: str, begin: int) -> str:
    """Cut a text at the first word that begins at or soon after `begin`, if there is one."""
    if begin == 0:
        return text
    for place in range(begin, begin + _WORD):
        if text[place - 1].isspace():
            return text[place:]
    return text[begin:]


def _decoded(data: bytes | bytearray, *, starts_inside: bool) -> str:
    return _whole_characters(bytes(data), starts_inside=starts_inside).decode("utf-8")


def _whole_characters(data: bytes, *, starts_inside: bool) -> bytes:
    """Cut incomplete characters off both ends of a window or an unfinished stream."""
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
