"""United States social security numbers."""

import re

from floe_plugins.gate.detectors.pattern import PatternDetector

_CUE = re.compile(r"\b(?:ssn|social\s+security|itin|tax(?:payer)?\s+id)", re.IGNORECASE)
_CUE_CHARS = 60


def _written_or_announced(match: re.Match[str]) -> bool:
    if match["separator"]:
        return True
    start = match.start()
    return _CUE.search(match.string, max(0, start - _CUE_CHARS), start) is not None


US_SSN = PatternDetector(
    name="us-ssn",
    label="US_SSN",
    # No area is 000, 666 or, for citizens, above 899 (those are taxpayer numbers, private too);
    # no group is 00, no serial 0000.
    pattern=re.compile(
        r"(?<![\w-])(?!000|666)\d{3}(?P<separator>[ .-]?)"
        r"(?!00)\d{2}(?P=separator)(?!0000)\d{4}(?![\w-])"
    ),
    confirms=_written_or_announced,
)
