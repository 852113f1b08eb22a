"""Keys and tokens of common services, private keys, and passwords in addresses."""

import re
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
        | eyJ[A-Za-z0-9_-]{8,}+\.eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]*+   # JSON web tokens
    )(?![A-Za-z0-9])""",
    re.VERBOSE,
)

_PASSWORD_IN_URL = re.compile(r"(?<=://)[^\s/:@]{1,256}+:[^\s/@]{1,256}+(?=@)")

_BLOCK_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}?PRIVATE KEY(?: BLOCK)?-----")
_BLOCK_END = re.compile(r"-----END [A-Z0-9 ]{0,40}?PRIVATE KEY(?: BLOCK)?-----")


class SecretDetector:
    """Finds API keys by their prefixes, private key blocks and passwords in URLs."""

    name = "secret"
    labels: Sequence[str] = ("API_KEY", "PRIVATE_KEY", "PASSWORD")

    def detect(self, text: str) -> Sequence[Span]:
        """Return the secrets of a text."""
        spans = [Span(*match.span(), "API_KEY") for match in _KEYS.finditer(text)]
        spans += [Span(*match.span(), "PASSWORD") for match in _PASSWORD_IN_URL.finditer(text)]
        return spans + _blocks(text)


def _blocks(text: str) -> list[Span]:
    """Find private key blocks; one without an end goes on to the end of the text."""
    spans = []
    begin = _BLOCK_BEGIN.search(text)
    while begin is not None:
        end = _BLOCK_END.search(text, begin.end())
        last = len(text) if end is None else end.end()
        spans.append(Span(begin.start(), last, "PRIVATE_KEY"))
        begin = _BLOCK_BEGIN.search(text, last)
    return spans
