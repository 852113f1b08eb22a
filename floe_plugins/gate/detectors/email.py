"""E-mail addresses."""

import re

from floe_plugins.gate.detectors.pattern import PatternDetector

_LOCAL = r"[\w.!#$%&'*+/=?^`{|}~-]"


def _has_top_level(match: re.Match[str]) -> bool:
    domain = match["domain"]
    return domain is None or any(map(str.isalpha, domain.rpartition(".")[2]))


EMAIL = PatternDetector(
    name="email",
    label="EMAIL",
    # A quoted local part (RFC 5322, section 3.4.1) may hold almost anything, and the domain may be
    # an address in brackets.
    pattern=re.compile(
        rf"""(?:(?<!{_LOCAL}){_LOCAL}++|"[^"\n]{{1,64}}+")
        @(?:(?P<domain>[\w-]++(?:\.[\w-]++)++)|\[[0-9A-Fa-f:.IPv]{{3,45}}+\])""",
        re.VERBOSE,
    ),
    confirms=_has_top_level,
    needs="@",
)
