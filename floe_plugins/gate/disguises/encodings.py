"""Decodes URL escapes, HTML entities, backslash escapes, base64 and hexadecimal.

Base64 may use either alphabet, be wrapped or not, and begin within a word. A word counts as encoded
only if it decodes to readable text, which ordinary long words do not.
"""

import base64
import binascii
import html
import re
from urllib.parse import unquote

from floe_plugins.gate.disguises.view import Rewriting, View
from floe_plugins.gate.growing import Memory
from floe_plugins.gate.matching import matches_at

_LEAST_CHARS = 14
_BASE64 = "[A-Za-z0-9+/_-]"
_ENCODED = re.compile(
    rf"""(?P<percent>(?:%[0-9A-Fa-f]{{2}})++)
    | (?P<entity>(?:&(?:\#[0-9]{{1,7}}|\#[xX][0-9A-Fa-f]{{1,6}}|[A-Za-z]{{2,31}}[0-9]{{0,2}});)++)
    | (?P<escape>(?:\\(?:u[0-9A-Fa-f]{{4}}|x[0-9A-Fa-f]{{2}}|u\{{[0-9A-Fa-f]{{1,6}}\}}))++)
    | (?<!{_BASE64})(?P<word>
        {_BASE64}{{{_LEAST_CHARS},}}+={{0,2}}(?:\r?\n{_BASE64}{{4,}}+={{0,2}})*+)""",
    re.VERBOSE,
)
# Where such a match may begin: a run of letters has it at its beginning only.
_STARTS = re.compile(rf"[%&\\]|{_BASE64}{{{_LEAST_CHARS},}}+")
_ESCAPE = re.compile(r"\\(?:u\{)?[ux]?([0-9A-Fa-f]+)\}?")
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+")
_URL_SAFE = str.maketrans("-_", "+/")
_LEAST_BYTES = 9
_READABLE = 0.95
_RUN = re.compile(rb"[\x20-\x7e]{11,}+")
_LARGEST = 0x10FFFF


def decoded(text: str, parent: View | None = None) -> View | None:
    """Return the view of a text with one layer of encodings decoded.

    `parent` is the view that the text is from, if any.

    Returns
    -------
    View or None
        None if nothing in the text is encoded. Every part of a decoded word maps to the whole
        encoded word, since a part of that cannot be replaced.
    """
    long = max(map(len, text.split()), default=0) >= _LEAST_CHARS
    if not (long or "%" in text or "&" in text or "\\" in text):
        return None
    rewriting = Rewriting(text, parent)
    for match in matches_at(_STARTS, _ENCODED, text):
        if match["word"] is not None:
            _decode_words(rewriting, match)
            continue
        plain = _unescaped(match)
        if plain != match[0]:
            rewriting.replace(match.start(), match.end(), plain)
    return rewriting.view()


def _unescaped(match: re.Match[str]) -> str:
    if match["percent"] is not None:
        return unquote(match[0], errors="ignore")
    if match["entity"] is not None:
        return html.unescape(match[0])
    points = [int(digits, 16) for digits in _ESCAPE.findall(match[0])]
    text = "".join(map(chr, (point for point in points if point <= _LARGEST)))
    # Two escapes may be the halves of one character.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "ignore")


def _decode_words(rewriting: Rewriting, match: re.Match[str]) -> None:
    """Decode the lines of a match as one word or, if that fails, one by one."""
    lines = re.finditer(r"[^\r\n]+", match[0])
    whole = _readable("".join(match[0].split()))
    if whole is not None:
        rewriting.replace(match.start(), match.end(), whole)
        return
    for line in lines:
        plain = _readable(line[0])
        if plain is not None:
            offset = match.start()
            rewriting.replace(offset + line.start(), offset + line.end(), plain)


# Most long words are names of a program's parts, and stay in a text while it grows.
_said_nothing: Memory[bool] = Memory()


def _readable(word: str) -> str | None:
    """Return the text that a word encodes, or None."""
    if _said_nothing.get(word):
        return None
    text = _read(word)
    if text is None:
        _said_nothing.put(word, True)
    return text


def _read(word: str) -> str | None:
    if _HEX.fullmatch(word):
        text = _text(bytes.fromhex(word))
        if text is not None:
            return text
    body = word.rstrip("=").translate(_URL_SAFE)
    # A word may begin with something else, or in the middle of a quantum.
    candidates = [data for skipped in range(4) if (data := _bytes(body[skipped:])) is not None]
    for data in candidates:
        text = _text(data)
        if text is not None:
            return text
    runs = [run for data in candidates for run in _RUN.findall(data)]
    return b"\n".join(runs).decode() if runs else None


def _bytes(body: str) -> bytes | None:
    body = body[:-1] if len(body) % 4 == 1 else body
    try:
        return base64.b64decode(body + "=" * (-len(body) % 4))
    except binascii.Error:
        return None


def _text(data: bytes) -> str | None:
    if len(data) < _LEAST_BYTES:
        return None
    text = data.decode("utf-8", "ignore")
    if len(text.encode()) < _READABLE * len(data):
        return None
    seen = sum(map(str.isprintable, text)) + sum(map(text.count, "\t\r\n"))
    return text if seen >= _READABLE * len(text) else None
