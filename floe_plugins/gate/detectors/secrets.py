"""Keys, tokens, passwords and private keys."""

import re
from collections.abc import Iterator, Sequence

from floe_plugins.gate.detector import Span
from floe_plugins.gate.detectors.command_lines import headers, options
from floe_plugins.gate.detectors.issued_keys import HOSTS, PREFIXES, issued_keys
from floe_plugins.gate.detectors.passwords import WORDS as PASSWORDS
from floe_plugins.gate.detectors.passwords import passwords
from floe_plugins.gate.detectors.placeholders import is_generated, is_placeholder, is_wordy
from floe_plugins.gate.growing import Cues, Growing, beginning, found_from
from floe_plugins.gate.matching import any_of, in_lower

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
_ANY_PREFIX = re.compile(rf"{any_of(_PREFIXES).pattern}|(?:AC|SK)[0-9a-f]{{8}}")
_CUE, _ANY_HOST = any_of(_CUES), any_of(HOSTS)
# It begins with what is rare, and is found many times faster.
_OPTION = re.compile(r"-(?<=\s-)(?:[uUpPaw]|-\w)")
# Before new text: a name, a phrase and its value; an element with its value.
_REACH, _MARKUP_CHARS, _END_CHARS = 384, 1024, 24
_ANY_CUE = Cues(_CUE.search, longest=max(map(len, _CUES)), within=_REACH)
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
        if _may_be_markup(text, new_from):
            return found_from(self, text, beginning(text, new_from - _MARKUP_CHARS))
        begin = max(0, new_from - _REACH)
        if _OPTION.search(text, begin):
            # Whether it counts depends on the whole text.
            return self.detect(text)
        # What names a key stands before its word, however long that is.
        return found_from(self, text, beginning(text, min(begin, _word(text, new_from)[1])))

    def may_find(self, grown: Growing) -> bool:
        """Return whether new text may make a finding: it belongs to what may be a secret."""
        text, new_from = grown.text, grown.new_from
        if _may_be_markup(text, new_from) or _OPTION.search(text, max(0, new_from - _REACH)):
            return True
        start, begin = _word(text, new_from)
        word = text[start:]
        return (
            _ANY_CUE.near(grown)
            or _ANY_PREFIX.search(word) is not None
            or ("/" in word and _ANY_HOST.search(word.lower()) is not None)
            # A cue may stand before a word that is longer than texts are read back.
            or (begin < new_from - _REACH and _CUE.search(text[begin:].lower()) is not None)
        )


def _may_be_markup(text: str, new_from: int) -> bool:
    return (
        text.find("</", max(0, new_from - _END_CHARS)) >= 0
        or text.find("value=", max(0, new_from - _MARKUP_CHARS)) >= 0
    )


def _word(text: str, new_from: int) -> tuple[int, int]:
    """Return where the word before new text begins, and what may name a key in it.

    Keys and addresses that issuers give have no spaces.
    """
    start = max(text.rfind(" ", 0, new_from), text.rfind("\n", 0, new_from)) + 1
    return start, max(0, start - _NAME_CHARS)


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
