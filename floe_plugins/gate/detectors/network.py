"""Addresses of machines (IP, MAC) and of personal pages."""

import ipaddress
import re
from collections.abc import Sequence

from floe_plugins.gate.detector import Span
from floe_plugins.gate.detectors.pattern import PatternDetector
from floe_plugins.gate.growing import Cues, Growing

_HEXTETS = re.compile(r"[0-9A-Fa-f]+")

# Four small numbers are as often a version as an address, and after such a word always one.
_VERSION = re.compile(
    r"(?:\b(?:versions?|release[ds]?|rev|build|firmware|driver|upgrad\w+|updat\w+|section|chapter"
    r"|clause|oid)\b[\s:=]*[\w.-]{0,16}\s?|[\w\])][=~<>^/_-]{1,3}=?\s?|[\"'][~^<>=]{1,2}\s?|\bv)\Z",
    re.IGNORECASE,
)
_VERSION_CHARS = 32
_LARGEST_OF_VERSION = 49
_MACHINE = re.compile(
    r"\b(?:ip(?:v4)?|addr\w*|hosts?|servers?|ping\w*|ssh|dns|gateway|router|subnet|net|network|nodes?"
    r"|machine|connect\w*|client|proxy|from|at|port|peer|interface|firewall|listen\w*|login)\b"
    r"|://|@",
    re.IGNORECASE,
)
_MACHINE_CHARS = 40
# Everybody's resolvers.
_PUBLIC = frozenset(("1.1.1.1", "1.0.0.1", "8.8.8.8", "8.8.4.4", "9.9.9.9"))


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
        if candidate.startswith("255.") or candidate in _PUBLIC:
            return False
        return not _is_version(match, candidate)
    hextets = _HEXTETS.findall(candidate)
    # "a::b" is a name and "[1::2]" a slice in many programming languages; no network begins so.
    return len(hextets) > 2 or (
        not candidate.startswith("::") and len(hextets[0]) == 4 and any(map(str.isdigit, candidate))
    )


def _is_version(match: re.Match[str], candidate: str) -> bool:
    text, start = match.string, match.start()
    if _VERSION.search(text, max(0, start - _VERSION_CHARS), start):
        return "://" not in text[max(0, start - 3) : start]
    if ipaddress.IPv4Address(candidate).is_private:
        return False
    if text[match.end() : match.end() + 1] in (":", "/"):
        return False
    return all(int(part) <= _LARGEST_OF_VERSION for part in candidate.split(".")) and not (
        _MACHINE.search(text, max(0, start - _MACHINE_CHARS), start)
    )


IP_ADDRESS = PatternDetector(
    name="ip-address",
    label="IP_ADDRESS",
    pattern=re.compile(
        r"""(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)
        | (?<![\w:.])(?=[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:.]{2,46}+(?!\w)""",
        re.VERBOSE,
    ),
    confirms=_names_a_machine,
    reach=112,
    digits=True,
    wakes=re.compile(r":[0-9A-Fa-f.]{0,4}:"),
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
# A page is one from so many characters on.
_BEGUN_CHARS = 32
_ADDRESS = Cues(
    re.compile(r"://|www\.").search, longest=len("www."), within=2 * (_MINE_CHARS + _BEGUN_CHARS)
)


class PersonalUrlDetector:
    """Finds profiles on social networks, and pages that the text describes as somebody's own."""

    name = "personal-url"
    labels: Sequence[str] = ("URL",)
    #: Characters before new text that may take part in a new finding.
    reach = _MINE_CHARS + _BEGUN_CHARS

    def detect(self, text: str) -> Sequence[Span]:
        """Return the addresses of personal pages in a text."""
        return [
            Span(*match.span(), "URL")
            for match in _URL.finditer(text)
            if _PROFILE.match(match[0])
            or _MINE.search(text, max(0, match.start() - _MINE_CHARS), match.start())
        ]

    def may_find(self, grown: Growing) -> bool:
        """Return whether new text may make a finding: there is an address in it or near it."""
        return _ADDRESS.near(grown)


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
    reach=64,
    wakes=re.compile(r"[:.-](?<=[0-9A-Fa-f].)[0-9A-Fa-f]"),
)
