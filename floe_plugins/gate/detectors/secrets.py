"""Keys, tokens, passwords and private keys."""

import re
from collections.abc import Iterator, Sequence

from floe_plugins.gate.detector import Span
from floe_plugins.gate.detectors.command_lines import headers, options
from floe_plugins.gate.detectors.issued_keys import HOSTS, PREFIXES, issued_keys
from floe_plugins.gate.detectors.passwords import WORDS as PASSWORDS
from floe_plugins.gate.detectors.passwords import passwords
from floe_plugins.gate.detectors.placeholders import is_generated, is_placeholder, is_wordy
from floe_plugins.gate.growing import beginning, found_from
from floe_plugins.gate.matching import in_lower

# A parameter of an address that grants access.
_IN_QUERY = re.compile(
    r"(?<=[?&])(?:access_token|api_?key|auth|key|password|passwd|pwd|secret|sig|signature|token)="
    r"(?P<value>[^\s&#\"'<>]{8,512}+)",
    re.IGNORECASE,
)

_KEY_NAMES = (
    r"(?P<qualified>(?:api|access|account|auth|bearer|client|encryption|private|secret|signing|session"
    r"|storage|aws|master|consumer|shared|refresh|deploy|bot|webhook"
    r"|subscription)[ _-]?(?:key|token|secret|id)s?)"
    r"|secret|token|bearer|authorization|credentials?|(?<![A-Za-z])(?P<plain>key)(?![A-Za-z])"
)
_NAMED_KEY = re.compile(_KEY_NAMES, re.IGNORECASE)
# The same for texts in lower case.
_NAMED_KEY_IN_LOWER = re.compile(_KEY_NAMES)
_ASSIGNED = re.compile(
    r"(?P<sign>(?:_(?:base|value|prod|live|dev|\d))?[\"']?\]?[ \t]{0,3}(?:=>|:=|[=:])[ \t]{0,3})"
    r"[\"'`]?(?P<value>[A-Za-z0-9+/=_.~-]{10,512}+)"
    r"|(?:[ ](?:is|was|bearer)[ :]{1,2}|[ ])[\"'`]?(?P<said>[A-Za-z0-9+/=_.~-]{16,512}+)",
    re.IGNORECASE,
)
# Keys of tables, and keys that everybody may have.
_OTHER_KEYS = re.compile(
    r"(?:public|primary|foreign|cache|partition|sort|row|natural|unique|object|s3|hash|lookup|map|dict|json"
    r"|registry|composite|candidate|next|page|continuation)[ _-]?\Z",
    re.IGNORECASE,
)
_OTHER_CHARS = 16
_WORDS = ("key", "token", "secret", "bearer", "auth", "credential")

# One of these is in every text with a finding, in lower case, unless a prefix of a key is.
_CUES = (*_WORDS, *PASSWORDS, "sig=", "signature=", "://", "basic ", "-----begin")
_PREFIXES = tuple(prefix for prefix in PREFIXES if prefix not in ("AC", "SK"))
_SHORT_PREFIX = re.compile(r"(?:AC|SK)[0-9a-f]{8}")
_OPTION = re.compile(r"\s-(?:[uUpPaw]|-\w)")
# Before new text: a name, a phrase and its value; an element with its value.
_REACH, _MARKUP_CHARS, _END_CHARS = 384, 1024, 24
# From the name of a key to the word that is the key.
_NAME_CHARS = 64

_BLOCK_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}?PRIVATE KEY(?: BLOCK)?-----")
_BLOCK_END = re.compile(r"-----END [A-Z0-9 ]{0,40}?PRIVATE KEY(?: BLOCK)?-----")


class SecretDetector:
    """Finds private keys, passwords, and API keys by their prefixes or by their names.

    Beside a word such as "token", finds keys of any issuer that look generated.
    """

    name = "secret"
    labels: Sequence[str] = ("API_KEY", "PRIVATE_KEY", "PASSWORD")

    def detect(self, text: str) -> Sequence[Span]:
        """Return the secrets of a text."""
        lower = text.lower()
        spans = [*issued_keys(text, lower), *passwords(text, lower)]
        spans += (*options(text), *headers(text, lower))
        for match in _IN_QUERY.finditer(text) if "=" in text else ():
            if not is_placeholder(match["value"]) and not is_wordy(match["value"]):
                spans.append(Span(*match.span("value"), "API_KEY"))
        if any(word in lower for word in _WORDS):
            spans += _named_keys(text)
        return sorted({*spans, *_blocks(text)})

    def detect_new(self, text: str, new_from: int) -> Sequence[Span]:
        """Return the findings of `detect` of which new text is a part, and maybe others."""
        around = max(0, new_from - _MARKUP_CHARS)
        ends = text.find("</", max(0, new_from - _END_CHARS)) >= 0
        if ends or text.find("value=", around) >= 0:
            return found_from(self, text, beginning(text, around))
        begin = max(0, new_from - _REACH)
        if _OPTION.search(text, begin):
            # Whether it counts depends on the whole text.
            return self.detect(text)
        # Keys and addresses that issuers give have no spaces.
        start = max(text.rfind(" ", 0, new_from), text.rfind("\n", 0, new_from)) + 1
        word = text[start:]
        # What names a key stands before its word, however long that is.
        begin = max(0, min(begin, start - _NAME_CHARS))
        lower = text[begin:].lower()
        if (
            any(map(lower.__contains__, _CUES))
            or any(map(word.__contains__, _PREFIXES))
            or _SHORT_PREFIX.search(word)
            or any(map(word.lower().__contains__, HOSTS))
        ):
            return found_from(self, text, beginning(text, begin))
        return []


def _named_keys(text: str) -> Iterator[Span]:
    """Yield what looks generated and has a name beside it that says that it is a key."""
    lower = in_lower(text)
    names = _NAMED_KEY.finditer(text) if lower is None else _NAMED_KEY_IN_LOWER.finditer(lower)
    for name in names:
        match = _ASSIGNED.match(text, name.end())
        if match is None:
            continue
        group = "value" if match["value"] else "said"
        before = _OTHER_KEYS.search(text, max(0, name.start() - _OTHER_CHARS), name.start())
        if before is None and is_generated(
            match[group].rstrip("."), named=not name["plain"] and group == "value"
        ):
            yield Span(*match.span(group), "API_KEY")


def _blocks(text: str) -> list[Span]:
    """Find private key blocks; one without an end extends to the end of the text."""
    spans = []
    begin = _BLOCK_BEGIN.search(text)
    while begin is not None:
        end = _BLOCK_END.search(text, begin.end())
        last = len(text) if end is None else end.end()
        spans.append(Span(begin.start(), last, "PRIVATE_KEY"))
        begin = _BLOCK_BEGIN.search(text, last)
    return spans
