"""Keys that can be told by the form that their issuers give them.

Issuers give their keys prefixes so that scanners find them; each is from its issuer's pages.
"""

import re
from collections.abc import Iterator

from floe_plugins.gate.detector import Span
from floe_plugins.gate.detectors.placeholders import is_placeholder, is_wordy

_KEYS = re.compile(
    r"""(?<![A-Za-z0-9])(?:
        sk-[A-Za-z0-9_-]{16,}+                             # OpenAI, Anthropic and alike
        | gh[pousr]_[A-Za-z0-9]{16,}+                      # GitHub
        | github_pat_[A-Za-z0-9_]{20,}+
        | gl(?:pat|ptt|rt|dt|cbt|soat)-[A-Za-z0-9_.-]{16,}+  # GitLab
        | (?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}              # Amazon Web Services
        | AIza[A-Za-z0-9_-]{30,}+                          # Google
        | GOCSPX-[A-Za-z0-9_-]{20,}+
        | ya29\.[A-Za-z0-9_-]{16,}+
        | xox[abeoprs]-[A-Za-z0-9-]{10,}+                  # Slack
        | xapp-[A-Za-z0-9-]{10,}+
        | [spr]k_(?:live|test)_[A-Za-z0-9]{10,}+           # Stripe
        | (?:hf|api_org)_[A-Za-z0-9]{20,}+                 # Hugging Face
        | npm_[A-Za-z0-9]{20,}+
        | pypi-AgE[A-Za-z0-9_-]{20,}+
        | SG\.[A-Za-z0-9_-]{16,}+\.[A-Za-z0-9_-]{16,}+     # SendGrid
        | xkeysib-[A-Za-z0-9-]{20,}+                       # Brevo
        | (?:AC|SK)[0-9a-f]{32}                            # Twilio
        | key-[0-9a-f]{32}                                 # Mailgun
        | dop_v1_[0-9a-f]{32,}+                            # DigitalOcean
        | shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}               # Shopify
        | (?:whsec|rk_live|rk_test)_[A-Za-z0-9]{16,}+      # Stripe
        | (?:xai|gsk|r8|pplx|nvapi)[-_][A-Za-z0-9_-]{30,}+ # xAI, Groq, NVIDIA
        | (?:dckr_pat|dckr_oat|glsa|lin_api|lin_oauth|rubygems|ATATT3|ATBB|sq0atp|sq0csp|EAAA)
          [_A-Za-z0-9=-]{20,}+
        | pscale_(?:pw|tkn|oauth)_[A-Za-z0-9_.-]{20,}+     # PlanetScale
        | (?:sbp|sntrys|sntryu|figd|ntn|phx|rnd|tskey|PMAK|NRAK|CFPAT)[-_][A-Za-z0-9_=-]{20,}+
        | hv[sb]\.[A-Za-z0-9_-]{20,}+                      # Vault
        | dp\.(?:pt|st|ct)\.[A-Za-z0-9_.-]{20,}+           # Doppler
        | dapi[0-9a-f]{32}                                 # Databricks
        | \d{8,10}:AA[A-Za-z0-9_-]{33}                     # Telegram
        | AGE-SECRET-KEY-1[0-9A-Z]{58}
        | eyJ[A-Za-z0-9_-]{8,}+\.eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]*+   # JSON web tokens
    )(?![A-Za-z0-9])""",
    re.VERBOSE,
)
# A text with such a key holds one of these.
PREFIXES = (
    *(
        "sk-",
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "ghr_",
        "github_pat",
        "glpat",
        "glptt",
        "glrt",
        "gldt",
    ),
    *(
        "glcbt",
        "glsoat",
        "glsa",
        "AKIA",
        "ASIA",
        "ABIA",
        "ACCA",
        "AIza",
        "GOCS",
        "ya29",
        "xox",
        "xapp",
    ),
    *(
        "xkeys",
        "k_live",
        "k_test",
        "hf_",
        "api_org",
        "npm_",
        "pypi-",
        "SG.",
        "AC",
        "SK",
        "key-",
        "dop_",
    ),
    *("shp", "eyJ", "whsec", "xai", "gsk", "r8", "pplx", "nvapi", "dckr", "lin_", "rubyg"),
    *(
        "ATATT",
        "ATBB",
        "sq0",
        "EAAA",
        ":AA",
        "AGE-",
        "pscale",
        "sbp",
        "sntry",
        "figd",
        "ntn",
        "phx",
        "rnd",
    ),
    *("tskey", "PMAK", "NRAK", "CFPAT", "hvs.", "hvb.", "dp.", "dapi"),
)

# Who has such an address can post with it.
_WEBHOOK = re.compile(
    r"""(?:hooks\.slack\.com/(?:services|workflows|triggers)/
    | discord(?:app)?\.com/api/webhooks/\d+/
    | (?:[\w-]{1,63}\.)?webhook\.office\.com/webhookb2/ | outlook\.office(?:365)?\.com/webhook/
    | hooks\.zapier\.com/hooks/catch/ | hook\.(?:[a-z]{2}\d?\.)?make\.com/
    | maker\.ifttt\.com/trigger/[^\s/]{1,64}/(?:json/)?with/key/
    | api\.telegram\.org/bot
    | open\.(?:feishu\.cn|larksuite\.com)/open-apis/bot/v2/hook/
    | qyapi\.weixin\.qq\.com/cgi-bin/webhook/send\?key=
    | oapi\.dingtalk\.com/robot/send\?access_token=
    )(?P<value>[A-Za-z0-9_:@/=.-]{8,256})""",
    re.VERBOSE | re.IGNORECASE,
)
HOSTS = (
    *("hooks.slack.com", "discord", "webhook.office.com", "outlook.office", "hooks.zapier.com"),
    *("make.com", "maker.ifttt.com", "api.telegram.org", "open.feishu.cn", "open.larksuite.com"),
    *("qyapi.weixin.qq.com", "oapi.dingtalk.com"),
)


def issued_keys(text: str, lower: str) -> Iterator[Span]:
    """Yield the keys and webhooks of a text, except those that only show the form."""
    if any(map(text.__contains__, PREFIXES)):
        for match in _KEYS.finditer(text):
            if not _is_example(match[0]):
                yield Span(*match.span(), "API_KEY")
    if any(host in lower for host in HOSTS):
        for match in _WEBHOOK.finditer(text):
            if not is_placeholder(match["value"]) and any(map(str.isdigit, match["value"])):
                yield Span(*match.span("value"), "API_KEY")


def _is_example(key: str) -> bool:
    # The prefix is a word, so that what follows tells: "hf_requiredCharacteristicTypes".
    return (is_wordy(key) and not key.isupper()) or is_placeholder(key) or len(set(key[8:])) <= 3
