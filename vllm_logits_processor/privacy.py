"""The privacy gate of the server, and of a stream: whether its text may go to the expert."""

from __future__ import annotations

import re
from dataclasses import dataclass

from floe_plugins.gate import Decision, Gate
from floe_plugins.gate.verdict import Policy
from vllm_logits_processor.config import FloeConfig

#: Fewest characters before new text that are scanned again with it. The longest structured value is
#: shorter, even spelled out, encoded or spaced out.
WINDOW = 512

# A window grows to so many times its least size before its beginning moves on. It is scanned as a
# whole where it begins, and of each new piece of text only what that may complete.
_WINDOWS = 4

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
        policy=Policy.LABELS if config.gate_actions else Policy.STRICT,
        actions=config.gate_actions,
        allow={str(key): values for key, values in (config.gate_allow or {}).items()},
        thresholds=config.gate_thresholds,
        detectors=config.detectors,
        plugins=config.plugins,
        timeout_s=config.gate_timeout_s,
    )


@dataclass
class StreamPrivacy:
    """Clears a stream's prompt once and its generated text in a window; a refusal is final.

    Text that has left cannot be recalled, and the beginning of a value would leave before the value
    can be recognised. So nothing leaves while the generated text ends in what may become a value,
    such as five digits: the host decodes these tokens alone and does not wait.

    Parameters
    ----------
    gate : Gate or None
        None for a trusted expert, which may see everything.
    prompt_bytes : int
        Bytes of the prompt at the text's beginning. The stream of a request that returns to the
        batch opens with its answer so far, so the first text is not always a prompt.
    """

    gate: Gate | None
    prompt_bytes: int = 0
    _private: bool = False
    _held: bool = False
    # Bytes that were read: complete characters, and one that may be incomplete.
    _read: int = 0
    _length: int = 0
    # The end of what was read, which the gate has cleared as it is.
    _cleared: str = ""

    def clears(self, text: bytes | bytearray) -> bool:
        """Scan the new part of `text` and return whether all of the text may leave.

        Any verdict but clear is a refusal for the rest of the stream.
        """
        if self.gate is None:
            return True
        if not self._private and len(text) != self._length:
            # A prompt is complete, so nothing of it is held back.
            self._held = len(text) > self.prompt_bytes and _begins_a_value(text)
            self._private = not self._clear(text)
            self._length = len(text)
        return not (self._private or self._held)

    def _clear(self, text: bytes | bytearray) -> bool:
        assert self.gate is not None
        begun = self._length > 0
        if len(text) < self._read:
            # Tokens were taken back: what is left is scanned anew.
            self._read, self._cleared = 0, ""
        data = _whole_characters(text[self._read :])
        try:
            new = data.decode("utf-8")
        except UnicodeDecodeError:
            # Invalid bytes between two characters could hide anything from a detector.
            return False
        if begun and not new:
            return True
        size = max(WINDOW, self.gate.longest) + _WORD
        seen, known = self._cleared + new, len(self._cleared)
        windows = _WINDOWS if self.gate.reads_new else 1
        if begun and len(seen) - len(new) > windows * size:
            seen, known = _from_word(seen, len(seen) - len(new) - size), 0
        if self.gate.decide(seen, new_from=known).decision is not Decision.CLEAR:
            return False
        self._read += len(data)
        self._cleared = seen
        return True


# One of these is in the last word of a text that ends with the prefix of a key, or soon before.
_PREFIX = re.compile(r"sk-|gh[pousr]_|glpat-|AKIA|ASIA|AIza|xox|hf_|eyJ")


def _begins_a_value(text: bytes | bytearray) -> bool:
    end = text[-_WORST_BYTES * _BEGUN_CHARS :].decode("utf-8", "ignore")[-_BEGUN_CHARS:]
    # Most text ends in none of these, which is told sooner than the pattern does.
    return (
        end.rstrip(" \t\n()./,_-")[-1:].isdecimal()
        or "@" in end
        or "-----BEGIN" in end
        or _PREFIX.search(end, max(end.rfind(" "), end.rfind("\n")) + 1) is not None
    ) and _BEGUN.search(end) is not None


def _from_word(text: str, begin: int) -> str:
    """Cut a text at the first word that begins at or soon after `begin`, if there is one."""
    if begin == 0:
        return text
    for place in range(begin, begin + _WORD):
        if text[place - 1].isspace():
            return text[place:]
    return text[begin:]


def _whole_characters(data: bytes | bytearray) -> bytes:
    """Cut an incomplete character off the end of an unfinished stream."""
    for back in range(1, min(4, len(data)) + 1):
        lead = data[-back]
        if lead & 0xC0 == 0x80:
            continue
        width = 1 if lead < 0x80 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
        return bytes(data[:-back]) if back < width else bytes(data)
    return bytes(data)
