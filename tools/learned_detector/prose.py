"""Meaningless sentences in which English words follow one another as they usually do."""

import random
import string
from bisect import bisect
from itertools import accumulate

from floe_plugins.gate.detectors.learned.features import FIRST, LAST, PLACE
from tools.learned_detector.listed import listed
from tools.learned_detector.sources import Sources, codes, pairs

_OPENERS = listed("entities.txt")["openers"]


class Prose:
    """Draws words and sentences without names in them.

    Parameters
    ----------
    found : Sources
        Words and how often they are used.
    numbers : random.Random
        The random numbers.
    """

    def __init__(self, found: Sources, numbers: random.Random) -> None:
        self._random = numbers
        code = codes(found)
        self._ordinary = {
            word for word in found.english if word in found.plain or not _is_name(code[word])
        }
        self._any = sorted(self._ordinary)
        weights = [found.english[word] ** 0.5 for word in self._any]
        self._shares = list(accumulate(weights))
        followers: dict[str, list[tuple[str, float]]] = {}
        for (first, second), count in pairs().items():
            if first in self._ordinary and second in self._ordinary:
                followers.setdefault(first, []).append((second, count**0.6))
        self._followers = {
            word: ([w for w, _ in after], list(accumulate(share for _, share in after)))
            for word, after in sorted(followers.items())
        }

    def word(self) -> str:
        """Return an English word that is not a name."""
        return self._any[bisect(self._shares, self._random.random() * self._shares[-1])]

    def sentence(self) -> str:
        """Return 4 to 16 words with a capital at the start and a punctuation mark at the end."""
        draw = self._random
        word = draw.choice(_OPENERS)
        words = [word]
        for _ in range(draw.randint(3, 15)):
            after = self._followers.get(word)
            if after is None or draw.random() < 0.12:
                word = self.word()
            else:
                followers, shares = after
                word = followers[min(bisect(shares, draw.random() * shares[-1]), len(shares) - 1)]
            words.append(word)
            if draw.random() < 0.06:
                words[-1] += ","
        written = " ".join("I" if word == "i" else word for word in words).rstrip(",")
        return written[0].upper() + written[1:] + draw.choice(".....?!")

    def acronym(self) -> str:
        """Return two to five capitals, perhaps with a digit."""
        letters = "".join(
            self._random.choices(string.ascii_uppercase, k=self._random.randint(2, 5))
        )
        return letters + self._random.choice(("", "", "", "s", "-1", "2", "-C"))

    def camel(self) -> str:
        """Return two or three words as programs write the names of classes."""
        return "".join(self.word().capitalize() for _ in range(self._random.randint(2, 3)))

    def snake(self) -> str:
        """Return words in snake case, as names of variables in programs."""
        return "_".join(self.word() for _ in range(self._random.randint(2, 3)))

    def product(self) -> str:
        """Return the name of a device."""
        return f"{self.word().capitalize()} {self.acronym()}{self._random.randint(1, 900)}"


def _is_name(code: int) -> bool:
    return code % LAST // FIRST > 0 or code % PLACE // LAST > 1 or code // PLACE % 4 > 1
