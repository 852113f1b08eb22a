"""Addresses of machines (IP, MAC) and of personal pages."""

import ipaddress
import re
from collections.abc import Sequence

from floe_plugins.gate.detector import Span
from floe_plugins.gate.detectors.pattern import PatternDetector

_HEXTETS = re.compile(r"[0-9A-Fa-f]+")


def _names_a_machine(match: re.Match[str]) -> bool:
    candidate = match[0].rstrip(".:") if not match[0].endswith("::") else match[0]
    try:
        address = ipaddress.ip_address(candidate)
    except ValueError:
        return False
    if address.is_loopback or address.is_unspecified:
        return False
    if address.version == 4:
        # Netmasks and broadcasts.
        return not candidate.startswith("255.")
    # "a::b" is a name in many programming languages.
    return len(_HEXTETS.findall(candidate)) > 2 or any(map(str.isdigit, candidate))


IP_ADDRESS = PatternDetector(
    name="ip-address",
    label="IP_ADDRESS",
    pattern=re.compile(
        r"""(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)
        | (?<![\w:.])(?=[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:.]{2,46}+(?!\w)""",
        re.VERBOSE,
    ),
    confirms=_names_a_machine,
)


_URL = re.compile(r"(?:https?://|www\.)[^\s<>\"']{3,2000}+", re.IGNORECASE)

# Pages that are about one person.
_PROFILE = re.compile(
    r"^(?:https?://)?(?:www\.|m\.)?(?:linkedin\.com/in/|facebook\.com/(?!sharer|help|business)"
    r"|instagram\.com/(?!p/|explore)|(?:twitter|x)\.com/(?!home|search|intent)|tiktok\.com/@"
    r"|t\.me/|wa\.me/|medium\.com/@|youtube\.com/@|flickr\.com/photos/|vk\.com/|snapchat\.com/add/)\w",
    re.IGNORECASE,
)
_MINE = re.compile(
    r"\b(?:(?:my|our|his|her)\ (?:\w+\ )?(?:website|web\ ?page|site|blog|page|home\ ?page|profile"
    r"|portfolio|channel|photos?|videos?|resume|cv|account|shop|store|link)"
    r"|(?:posted|uploaded|shared)\ (?:an?|my|our|some|the)\ (?:\w+\ )?(?:photos?|pictures?|videos?"
    r"|post))\b",
    re.IGNORECASE | re.VERBOSE,
)
_MINE_CHARS = 48


class PersonalUrlDetector:
    """Finds profiles on social networks, and pages that the text describes as somebody's own."""

    name = "personal-url"
    labels: Sequence[str] = ("URL",)

    def detect(self, text: str) -> Sequence[Span]:
        """Return the addresses of personal pages in a text."""
        return [
            Span(*match.span(), "URL")
            for match in _URL.finditer(text)
            if _PROFILE.match(match[0])
            or _MINE.search(text, max(0, match.start() - _MINE_CHARS), match.start())
        ]


def _is_one_device(match: re.Match[str]) -> bool:
    digits = re.sub(r"\W", "", match[0]).lower()
    # All zeros and all ones mean no device and all devices.
    return digits not in ("0" * 12, "f" * 12)


MAC_ADDRESS = PatternDetector(
    name="mac-address",
    label="MAC_ADDRESS",
    pattern=re.compile(
        r"(?<![\w:.-])(?:[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}"
        r"|[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4})(?![\w:.-]?\w)"
    ),
    confirms=_is_one_device,
)
