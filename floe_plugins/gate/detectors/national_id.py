"""National identity numbers, tax numbers and VAT numbers, checked by python-stdnum."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from floe_plugins.gate.detector import Span
from floe_plugins.gate.detectors.identity_numbers import FORMS, UNCHECKED, Form

# No form has fewer than six digits, the first two of them together.
_DIGITS = re.compile(r"\d\W?\d(?:\w?\W{0,2}\d){4}")
_CUE_CHARS = 48


# Where a number may begin, and all that may belong to it.
_REGION = re.compile(r"(?<![\w.+/-])[A-ZÑ&]{0,6}[ -]?\d(?:[ ./(-]{0,2}[0-9A-Za-z+]){5,40}")
_START = re.compile(r"(?<![\w.+/-])[A-ZÑ&\d]")


class _Compiled(NamedTuple):
    form: Form
    pattern: re.Pattern[str]
    cue: re.Pattern[str] | None


def _compiled(form: Form) -> _Compiled:
    cue = (
        re.compile(rf"(?<!\w)(?:{form.cue})(?!\w)|{form.cue}(?=\w*\W)", re.I) if form.cue else None
    )
    return _Compiled(form, re.compile(rf"(?<![\w.+/-]){form.pattern}(?![\w+/-]|\.\d)"), cue)


_COMPILED = tuple(map(_compiled, (*FORMS, *UNCHECKED)))
_BY_LETTER = tuple(
    entry for entry in _COMPILED if re.match(r"(?:\(\?\S+?\)|\(\?:)*\[?[A-Z]", entry.form.pattern)
)
_BY_DIGIT = tuple(entry for entry in _COMPILED if entry not in _BY_LETTER)


class NationalIdDetector:
    """Finds numbers by which states know people and companies.

    A number counts if its check digits are right and either it is written in a way of its own or
    its name stands before it. Where a country's number is but digits with one check digit, the name
    is needed: one in ten of all numbers would do without.
    """

    name = "national-id"
    labels: Sequence[str] = tuple(sorted({entry.form.label for entry in _COMPILED}))

    def detect(self, text: str) -> Sequence[Span]:
        """Return the national numbers of a text."""
        if _DIGITS.search(text) is None:
            return []
        spans: set[Span] = set()
        for region in _REGION.finditer(text):
            if _DIGITS.search(region[0]):
                for place in _START.finditer(text, region.start(), region.end()):
                    spans.update(_at(text, place.start()))
        return sorted(spans)


def _at(text: str, start: int) -> Iterator[Span]:
    """Yield the numbers that begin at a place."""
    for form, pattern, cue in _BY_DIGIT if text[start].isdigit() else _BY_LETTER:
        match = pattern.match(text, start)
        if match is None or (cue and not cue.search(text, max(0, start - _CUE_CHARS), start)):
            continue
        if not form.module or _check(form.module)(match[0]):
            yield Span(start, match.end(), form.label)


@functools.cache
def _check(module: str) -> Callable[[str], bool]:
    check: Callable[[str], bool] = importlib.import_module(f"stdnum.{module}").is_valid
    return check
