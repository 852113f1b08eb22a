"""Texts that a pattern matches, to test what must be true of every match.

A rule that is tried only where one of its words is must not have a match without these words.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from re import _constants, _parser  # type: ignore[attr-defined]  # the only parser of patterns
from typing import Any

_SAMPLES_OF_CLASS = {
    _constants.CATEGORY_DIGIT: "0123456789",
    _constants.CATEGORY_WORD: "abcdefgXYZ0123é_",
    _constants.CATEGORY_SPACE: " \t\n",
    _constants.CATEGORY_NOT_DIGIT: "abc -",
    _constants.CATEGORY_NOT_WORD: " -.,",
    _constants.CATEGORY_NOT_SPACE: "abc1-",
}
_ANY = "abcxyzABC0123456789 -_.,:;/@é"
_MORE = 3


def samples(pattern: re.Pattern[str], *, count: int, seed: int = 0) -> Iterator[str]:
    """Yield texts of which `pattern` matches a part, made at random from its alternatives.

    Parameters
    ----------
    count : int
        How many are tried; those that an assertion of the pattern refuses are left out.
    """
    rng = random.Random(seed)
    parsed = _parser.parse(pattern.pattern, pattern.flags)
    for _ in range(count):
        text = _written(parsed, rng, {})
        if pattern.search(text):
            yield text


def _written(parts: Any, rng: random.Random, groups: dict[int, str]) -> str:
    return "".join(_one(kind, value, rng, groups) for kind, value in parts)


def _one(kind: Any, value: Any, rng: random.Random, groups: dict[int, str]) -> str:
    name = str(kind)
    if name in ("LITERAL", "NOT_LITERAL"):
        return chr(value) if name == "LITERAL" else rng.choice(_ANY.replace(chr(value), ""))
    if name == "ANY":
        return rng.choice(_ANY)
    if name == "IN":
        return rng.choice(_characters(value))
    if name == "BRANCH":
        return _written(rng.choice(value[1]), rng, groups)
    if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        least, most, body = value
        times = rng.randint(least, min(int(most), least + _MORE))
        return "".join(_written(body, rng, groups) for _ in range(times))
    if name == "SUBPATTERN":
        number, _, _, body = value
        text = _written(body, rng, groups)
        if number is not None:
            groups[number] = text
        return text
    if name == "ATOMIC_GROUP":
        return _written(value, rng, groups)
    if name == "GROUPREF":
        return groups.get(value, "")
    if name == "GROUPREF_EXISTS":
        number, yes, no = value
        return _written(yes if number in groups else no or (), rng, groups)
    # Assertions take no characters; `samples` sees whether they hold.
    return ""


def _characters(parts: Any) -> str:
    negated = str(parts[0][0]) == "NEGATE"
    found = ""
    for kind, value in parts:
        if str(kind) == "LITERAL":
            found += chr(value)
        elif str(kind) == "RANGE":
            first, last = value
            found += "".join(map(chr, range(first, min(last, first + 40) + 1)))
        elif str(kind) == "CATEGORY":
            found += _SAMPLES_OF_CLASS[value]
    return "".join(set(_ANY) - set(found)) or "\u00b5" if negated else found
