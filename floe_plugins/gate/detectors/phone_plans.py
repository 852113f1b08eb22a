"""National numbers without a cue, by the numbering plans of countries that have no trunk zero.

Where national numbers begin with 0, their form gives them away (see `phone`). Elsewhere
"612 34 56 78" could be any number; it is taken for a telephone number if it is a valid one of some
country and is grouped as they are there. Plans and forms are those of libphonenumber, by way of
the package phonenumbers.
"""

import re
from functools import lru_cache

#: Countries of which most numbers are written in groups that little else is written in.
_REGIONS = ("ES", "PT", "IT", "PL", "CZ", "GR", "SG")

_GROUPS = re.compile(r"\d+")
_SEPARATORS = re.compile(r"[^\d]+")
_LEAST_DIGITS, _MOST_DIGITS = 8, 10


def is_grouped(candidate: str) -> bool:
    """Tell whether `candidate` has as many digits, in such groups, that a plan may say more."""
    groups = _GROUPS.findall(candidate)
    digits = sum(map(len, groups))
    # Pairs alone are lists of small numbers, and one group is anything.
    return (
        len(groups) > 1
        and max(map(len, groups)) > 2
        and _LEAST_DIGITS <= digits <= _MOST_DIGITS
        and len(set(_SEPARATORS.findall(candidate.strip("+()")))) == 1
    )


def is_planned(candidate: str) -> bool:
    """Tell whether a grouped `candidate` is a number as some country writes it."""
    return _is_written_so(" ".join(_GROUPS.findall(candidate)))


@lru_cache(maxsize=4096)
def _is_written_so(grouped: str) -> bool:
    import phonenumbers

    for region in _REGIONS:
        try:
            number = phonenumbers.parse(grouped, region)
        except phonenumbers.NumberParseException:
            # "00" calls abroad, and no country has what follows.
            continue
        if phonenumbers.is_valid_number_for_region(number, region):
            written = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)
            if " ".join(_GROUPS.findall(written)) == grouped:
                return True
    return False
