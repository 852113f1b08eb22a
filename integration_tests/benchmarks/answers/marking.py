"""When an answer is right, by the kind of the task, and how near it is to the reference."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from flower_strategy.data.examples import Example

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_STATED = re.compile(r"(?:####|[Tt]he answer is)\s*\$?\s*(-?\d[\d,]*(?:\.\d+)?)")
_PIECES = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Marking:
    """How the answers of a kind of task are read.

    Attributes
    ----------
    kind : str
        Its name in the results.
    rule : str
        What counts as right, in words.
    final : Callable[[str], Hashable]
        Text of an answer -> what is compared with the reference's; None where there is nothing of
        the kind in it, which is never right.
    """

    kind: str
    rule: str
    final: Callable[[str], Hashable]

    def right(self, answer: str, reference: str) -> bool:
        """Tell whether an answer is right."""
        found = self.final(answer)
        return found is not None and found == self.final(reference)


def token_f1(answer: str, reference: str) -> float:
    """Return the F1 of the words and signs that two texts share, as SQuAD has it; 0 to 1.

    Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text", 2016; here
    signs count too, since code and records are made of them.
    """
    first, second = (Counter(_PIECES.findall(text.lower())) for text in (answer, reference))
    shared = (first & second).total()
    return 2 * shared / (first.total() + second.total()) if shared else 0.0


def _record(text: str) -> str | None:
    start = text.find("{")
    if start < 0:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(text, start)
    except json.JSONDecodeError:
        return None
    return json.dumps(value, sort_keys=True)


def _number(text: str) -> float | None:
    stated = _STATED.search(text)
    found = [stated.group(1)] if stated else _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def _choice(text: str) -> str | None:
    words = re.findall(r"[a-z]+", text.lower())
    return words[0] if words else None


def _line(text: str) -> str | None:
    return text.strip("\n").split("\n")[0].strip() or None


def _whole(text: str) -> str | None:
    return " ".join(text.split()) or None


RECORD = Marking("record", "the first JSON value equals the reference's", _record)
NUMBER = Marking(
    "number", "the number after 'The answer is' or '####', else the last one, is right", _number
)
CHOICE = Marking("choice", "the first word is the reference's", _choice)
LINE = Marking("line", "the next line equals the reference's but for blanks at its ends", _line)
WHOLE = Marking("whole", "the text equals the reference but for blanks", _whole)


def marking_for(examples: Sequence[Example]) -> Marking:
    """Return how a file's answers are read, by what its references look like."""
    references = [example.response.strip() for example in examples]
    if all(_STATED.search(reference) for reference in references):
        return NUMBER
    if all(_record(reference) is not None for reference in references):
        return RECORD
    if all(re.fullmatch(r"(yes|no|maybe)\b.*", text, re.DOTALL) for text in references):
        return CHOICE
    return WHOLE
