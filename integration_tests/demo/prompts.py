"""The demonstration's prompts: three public and two private ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """A prompt and a short name for tables and file names."""

    name: str
    text: str


PROMPTS = (
    Prompt(
        "arithmetic",
        "Problem: Omar has 12 marbles and buys 9 more. Omar gives 5 to Lena. How many marbles does "
        "Omar have now?\nSolution:",
    ),
    Prompt(
        "code",
        'def is_even(number):\n    """Return whether a number is even."""\n    return',
    ),
    Prompt("record", "Text: Ada Ito, 34, works as a baker in Osaka.\nRecord:"),
    Prompt(
        "card",
        "Text: Dalia Gruber, 41, works as a nurse in Graz and pays with the card "
        "4111 1111 1111 1111.\nRecord:",
    ),
    Prompt(
        "contact",
        "Problem: Emil has 8 tickets and buys 3 more; write to emil.jansen@example.org or call "
        "+31 20 624 1111. How many tickets does Emil have now?\nSolution:",
    ),
)

#: Where an answer ends: the next example of the formats that the devices were trained on.
STOP = ("\n\n", "\nProblem:", "\nText:", "\ndef ")
