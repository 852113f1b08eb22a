"""Internet addresses, version 4 and 6."""

import ipaddress
import re

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
