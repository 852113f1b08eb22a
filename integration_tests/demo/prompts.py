"""The demonstration's prompts: three public and two private ones."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """A prompt.

    Attributes
    ----------
    name : str
        For tables and file names.
    text : str
        What is asked.
    right : str
        A pattern that is found in every right answer, and in no wrong one; by default in none.
    """

    name: str
    text: str
    right: str = r"(?!)"

    def is_right(self, answer: str) -> bool:
        """Return whether an answer is right."""
        return re.search(self.right, answer, re.DOTALL) is not None


def _record(name: str, age: int, job: str, city: str) -> str:
    values = (f'"name": "{name}"', f'"age": {age}', f'"job": "{job}"', f'"city": "{city}"')
    return rf"^\s*\{{{', '.join(values)}\}}\s*$"


PROMPTS = (
    Prompt(
        "arithmetic",
        "Problem: Omar has 12 marbles and buys 9 more. Omar gives 5 to Lena. How many marbles does "
        "Omar have now?\nSolution:",
        # The last number.
        r"\b16\b(?!.*\d)",
    ),
    Prompt(
        "code",
        'def is_even(number):\n    """Return whether a number is even."""\n    return',
        r"^ *\(?number % 2 == 0\)? *$",
    ),
    Prompt(
        "record",
        "Text: Ada Ito, 34, works as a baker in Osaka.\nRecord:",
        _record("Ada Ito", 34, "baker", "Osaka"),
    ),
    Prompt(
        "card",
        "Text: Dalia Gruber, 41, works as a nurse in Graz and pays with the card "
        "4111 1111 1111 1111.\nRecord:",
        _record("Dalia Gruber", 41, "nurse", "Graz"),
    ),
    Prompt(
        "contact",
        "Problem: Emil has 8 tickets and buys 3 more; write to emil.jansen@example.org or call "
        "+31 20 624 1111. How many tickets does Emil have now?\nSolution:",
        r"\b11\b(?!.*\d)",
    ),
)

#: Where an answer ends: the next example of the formats that the devices were trained on.
STOP = ("\n\n", "\nProblem:", "\nText:", "\ndef ")
