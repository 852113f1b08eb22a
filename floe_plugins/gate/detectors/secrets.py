"""Keys and tokens of common services, private keys, and passwords after words for them."""

import math
import re
from collections import Counter
from collections.abc import Sequence

from floe_plugins.gate.detector import Span

# Issuers give their keys prefixes so that scanners find them; each is from its issuer's pages.
_KEYS = re.compile(
    r"""(?<![A-Za-z0-9])(?:
        sk-[A-Za-z0-9_-]{16,}+                             # OpenAI, Anthropic and alike
        | gh[pousr]_[A-Za-z0-9]{16,}+                      # GitHub
        | github_pat_[A-Za-z0-9_]{20,}+
        | gl(?:pat|ptt|rt|dt)-[A-Za-z0-9_-]{16,}+          # GitLab
        | (?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}              # Amazon Web Services
        | AIza[A-Za-z0-9_-]{30,}+                          # Google
        | ya29\.[A-Za-z0-9_-]{16,}+
        | xox[abeoprs]-[A-Za-z0-9-]{10,}+                  # Slack
        | xapp-[A-Za-z0-9-]{10,}+
        | [spr]k_(?:live|test)_[A-Za-z0-9]{10,}+           # Stripe
        | hf_[A-Za-z0-9]{20,}+                             # Hugging Face
        | npm_[A-Za-z0-9]{20,}+
        | pypi-AgE[A-Za-z0-9_-]{20,}+
        | SG\.[A-Za-z0-9_-]{16,}+\.[A-Za-z0-9_-]{16,}+     # SendGrid
        | (?:AC|SK)[0-9a-f]{32}                            # Twilio
        | key-[0-9a-f]{32}                                 # Mailgun
        | dop_v1_[0-9a-f]{32,}+                            # DigitalOcean
        | shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}               # Shopify
        | (?:whsec|rk_live|rk_test)_[A-Za-z0-9]{16,}+      # Stripe
        | (?:xai|gsk|r8|pplx|nvapi)[-_][A-Za-z0-9_-]{30,}+ # xAI, Groq, NVIDIA
        | (?:dckr_pat|glsa|lin_api|rubygems|ATATT3|sq0atp|sq0csp|EAAA)[_A-Za-z0-9=-]{20,}+
        | \d{8,10}:AA[A-Za-z0-9_-]{33}                     # Telegram
        | AGE-SECRET-KEY-1[0-9A-Z]{58}
        | eyJ[A-Za-z0-9_-]{8,}+\.eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]*+   # JSON web tokens
    )(?![A-Za-z0-9])""",
    re.VERBOSE,
)
# A text with such a key holds one of these.
_PREFIXES = re.compile(
    r"sk-|gh|gl|AKIA|ASIA|ABIA|ACCA|AIza|ya29|xox|xapp|k_live|k_test|hf_|npm_|pypi|SG\.|AC|SK"
    r"|key-|dop_|shp|eyJ|whsec|xai|gsk|r8|pplx|nvapi|dckr|lin_api|rubyg|ATATT|sq0|EAAA|:AA|AGE-"
)

_PASSWORD_IN_URL = re.compile(r"(?<=://)[^\s/:@]{1,256}+:[^\s/@]{1,256}+(?=@)")

# A parameter of an address that grants access.
_IN_QUERY = re.compile(
    r"(?<=[?&])(?:access_token|api_?key|auth|key|password|passwd|pwd|secret|sig|signature|token)="
    r"(?P<value>[^\s&#\"'<>]{8,512}+)",
    re.IGNORECASE,
)

_NAMED_KEY = re.compile(
    r"(?:api|access|account|auth|bearer|client|encryption|private|secret|signing|session|storage|aws)"
    r"[ _-]?(?:key|token|secret)s?|secret|token|bearer|authorization|credentials?",
    re.IGNORECASE,
)
_ASSIGNED = re.compile(
    r"(?:[\"']?[ \t]{0,3}(?:=>|:=|[=:])[ \t]{0,3}|[ ](?:is|was|bearer)[ :]{1,2}|[ ])[\"'`]?"
    r"(?P<value>[A-Za-z0-9+/=_.~-]{16,512}+)",
    re.IGNORECASE,
)
_PASSWORD = re.compile(
    r"\b(?:password|passwort|passwd|passphrase|pwd|pass|contrase[nñ]a|mot\ de\ passe"
    r"|wachtwoord|senha)"
    r"(?:[\"']?[ \t]{0,3}(?P<sign>=>|:=|[=:])[ \t]{0,3}|[ ]"
    r"(?:(?:for|to|of)[ ][\w. -]{1,30}?[ ])?(?:is|was|ist|es|est)[ :]{1,2})"
    r"(?P<quote>[\"'`]?)(?P<value>[^\s\"'`<>{}()\[\],;]{4,128})",
    re.IGNORECASE | re.VERBOSE,
)
# Values in the place of a password that are not passwords.
_NO_PASSWORD = re.compile(
    r"^(?:\*+|x{3,}|\.+|\$\w*|%\w+%?|your\w*|my\w*|not|none|null|true|false|wrong|incorrect|invalid|correct"
    r"|expired|required|weak|strong|too|very|never|always|also|only|stored|hashed|encrypted|missing|empty"
    r"|changed|reset|input|getpass\S*|os\.\S*|env\S*|str|string|self\.\S*|password\S*|example|test|that"
    r"|this|the|what|when|where|being|been|used|case|case-sensitive|optional|long|short|secure|safe"
    r"|valid|still|now|rejected|accepted|forgotten|lost|known|needed|protected|something|set)[.!?:]*$",
    re.IGNORECASE,
)
# Bits per character: English words have less than random letters of the same length.
_KEY_ENTROPY = 3.2

_BLOCK_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}?PRIVATE KEY(?: BLOCK)?-----")
_BLOCK_END = re.compile(r"-----END [A-Z0-9 ]{0,40}?PRIVATE KEY(?: BLOCK)?-----")


class SecretDetector:
    """Finds private keys, passwords, and API keys by their prefixes or by their names.

    Beside a word such as "token", finds keys of any issuer: at least 16 characters, with digits and
    letters mixed as if at random.
    """

    name = "secret"
    labels: Sequence[str] = ("API_KEY", "PRIVATE_KEY", "PASSWORD")

    def detect(self, text: str) -> Sequence[Span]:
        """Return the secrets of a text."""
        spans = []
        lower = text.lower()
        if _PREFIXES.search(text):
            spans += [Span(*match.span(), "API_KEY") for match in _KEYS.finditer(text)]
        spans += [Span(*match.span(), "PASSWORD") for match in _PASSWORD_IN_URL.finditer(text)]
        spans += [Span(*match.span("value"), "API_KEY") for match in _IN_QUERY.finditer(text)]
        if any(key in lower for key in ("key", "token", "secret", "bearer", "auth", "credential")):
            for name in _NAMED_KEY.finditer(text):
                match = _ASSIGNED.match(text, name.end())
                if match is not None and _is_random(match["value"]):
                    spans.append(Span(*match.span("value"), "API_KEY"))
        words = ("pass", "pwd", "contrase", "mot de", "wachtw", "senha")
        for match in _PASSWORD.finditer(text) if any(word in lower for word in words) else ():
            if not _NO_PASSWORD.match(match["value"]) and _is_password(match):
                spans.append(Span(*match.span("value"), "PASSWORD"))
        return spans + _blocks(text)


def entropy(value: str) -> float:
    """Return the bits per character of a non-empty text by its own frequencies (Shannon)."""
    counts = Counter(value).values()
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts)


def _is_random(value: str) -> bool:
    digits = sum(character.isdigit() for character in value)
    letters = sum(character.isalpha() for character in value)
    return digits >= 2 and letters >= 2 and entropy(value) >= _KEY_ENTROPY


def _is_password(match: re.Match[str]) -> bool:
    # Without quotes a word of letters may be any word of the sentence.
    assigned = bool(match["quote"] or match["sign"])
    return assigned or not match["value"].rstrip(".!?").isalpha()


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
