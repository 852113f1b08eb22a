"""Makes training sentences: templates filled with names, places and words."""

import functools
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from tools.learned_detector.entities import Entities
from tools.learned_detector.listed import lines_of, listed
from tools.learned_detector.negatives import Negatives
from tools.learned_detector.prose import Prose
from tools.learned_detector.sources import Sources

_SLOT = re.compile(r"(?<!\{)\{(\w+)\}(?!\})")
_WORD = re.compile(r"\w+")


@dataclass
class Text:
    """A text and its private spans.

    Attributes
    ----------
    text : str
        The text.
    spans : list of tuple of int, int and str
        Start, end and label of each private span.
    """

    text: str = ""
    spans: list[tuple[int, int, str]] = field(default_factory=list)

    def add(self, text: str, label: str | None = None) -> None:
        """Append text, as a private span if it has a label."""
        if label is not None and text:
            self.spans.append((len(self.text), len(self.text) + len(text), label))
        self.text += text

    def extend(self, other: "Text") -> None:
        """Append another text."""
        start = len(self.text)
        self.spans += [(start + begin, start + end, label) for begin, end, label in other.spans]
        self.text += other.text


class Generator:
    """An endless source of texts, the same for the same seed.

    Parameters
    ----------
    found : Sources
        Names and words.
    seed : int
        Of the random numbers.
    """

    def __init__(self, found: Sources, seed: int) -> None:
        self._random = random.Random(seed)
        self._entities = Entities(found, self._random)
        self._words = listed("words.txt")
        self._prose = Prose(found, self._random)
        self._negatives = Negatives(self._prose, self._random)
        self._private = _templates("private.txt")
        self._clean = _templates("clean.txt")

    def text(self) -> Text:
        """Return the next text: with private data in about a third."""
        draw = self._random.random
        if draw() < 0.25:
            # As written: programs and other languages mean something by their capitals.
            return Text(self._negatives.text())
        if draw() < 0.45:
            made = self._one_private()
            while draw() < 0.25:
                self._join(made, self._one_private() if draw() < 0.5 else self._one_clean())
        else:
            made = self._one_clean()
            while draw() < 0.3:
                self._join(made, self._one_clean())
        return self._cased(made)

    def _join(self, made: Text, other: Text) -> None:
        made.add(self._random.choice((" ", " ", " ", "\n", "\n\n")))
        made.extend(other)

    def _one_private(self) -> Text:
        if self._random.random() < 0.15:
            return self._entity_in_prose()
        return self._filled(self._random.choice(self._private))

    def _one_clean(self) -> Text:
        return self._filled(self._random.choice(self._clean))

    def _entity_in_prose(self) -> Text:
        """Insert a private thing anywhere in a meaningless sentence."""
        words = self._prose.sentence().split(" ")
        place = self._random.randrange(len(words) + 1)
        kind = self._random.choice(("person", "person", "first", "city", "country", "org"))
        made = Text(" ".join(words[:place]) + (" " if place else ""))
        made.add(*self._entities.make(kind))
        made.add(" " + " ".join(words[place:]) if place < len(words) else ".")
        return made

    def _filled(self, template: str) -> Text:
        made = Text()
        at = 0
        for slot in _SLOT.finditer(template):
            made.add(template[at : slot.start()])
            made.add(*self._fill(slot[1]))
            at = slot.end()
        made.add(template[at:])
        return made

    def _fill(self, slot: str) -> tuple[str, str | None]:
        choose = self._random.choice
        if slot in self._words:
            return self._word(slot), None
        if slot.lower() in self._words:
            word = self._word(slot.lower())
            return word[0].upper() + word[1:], None
        simple: dict[str, Callable[[], str]] = {
            "sentence": self._prose.sentence,
            "lower": lambda: self._prose.sentence().lower(),
            "UPPER": lambda: self._prose.sentence().upper(),
            "headline": lambda: _titled(self._prose.sentence().rstrip(".?!,")),
            "acronym": self._prose.acronym,
            "camel": self._prose.camel,
            "snake": self._prose.snake,
            "product": self._prose.product,
            "eponym": self._entities.eponym,
            "number": lambda: str(_number(self._random)),
            "age": lambda: str(self._random.randint(1, 99)),
            "year": lambda: str(self._random.randint(1850, 2030)),
            "title": lambda: choose(
                ("Mr.", "Mrs.", "Ms.", "Dr.", "Mr", "Mrs", "Ms", "Dr", "Prof.")
            ),
        }
        if slot in simple:
            return simple[slot](), None
        return self._entities.make(slot)

    def _word(self, kind: str) -> str:
        # Words outside the list keep the model from memorising the list.
        if kind in ("noun", "verb", "adj") and self._random.random() < 0.3:
            return self._prose.word()
        return self._random.choice(self._words[kind])

    def _cased(self, made: Text) -> Text:
        draw = self._random.random()
        if draw < 0.22:
            return Text(_lower(made.text), made.spans)
        if draw < 0.25:
            upper = made.text.upper()
            return Text(upper, made.spans) if len(upper) == len(made.text) else made
        if draw < 0.27:
            return Text(_titled(made.text), made.spans)
        if draw < 0.35 and made.text.endswith("."):
            return Text(
                made.text[:-1], [(b, min(e, len(made.text) - 1), c) for b, e, c in made.spans]
            )
        return made


def _number(numbers: random.Random) -> int:
    """Draw a whole number as texts have them: most are small."""
    return numbers.randint(1, 10 ** numbers.choice((1, 1, 2, 2, 3, 4)))


def _titled(text: str) -> str:
    return _WORD.sub(lambda word: word[0][:1].upper() + word[0][1:], text)


def _lower(text: str) -> str:
    # Some letters become two in lower case, which would shift everything after them.
    return "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)


@functools.cache
def _templates(name: str) -> tuple[str, ...]:
    return tuple(line.replace("\\n", "\n") for line in lines_of(name))
