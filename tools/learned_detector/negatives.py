"""Draws texts without private data that are no English prose: programs, logs, tables, languages.

Programs, and the prose in their docstrings, are excerpts of packages of the extra ``train`` under
the BSD licence. Everything else is put together from lists and drawn numbers.
"""

import functools
import importlib
import random
import re
import string
from collections.abc import Callable
from pathlib import Path

from tools.learned_detector.listed import lines_of
from tools.learned_detector.prose import Prose

LANGUAGES = {"de": "de_DE", "fr": "fr_FR", "es": "es_ES", "it": "it_IT"}
"""Languages besides English that texts are drawn in, and Faker's locales with their words."""

_PACKAGES = ("sklearn", "scipy", "numpy")
_SLOT = re.compile(r"\{(\w)\}")
# Excerpts with the names of authors are left out, and with places, which docstrings hardly have.
_NAMED = re.compile(
    r"author|copyright|licen[sc]e|maintain|thank|contribut|credit|refer|et al|\.\. \[|\[\d+\]|@|://"
    r"|\b(?:19|20)\d\d\b|\b[A-Z]\. ?[A-Z]|\bby [A-Z]|doi|[Jj]ournal|Proc|Univers|Press|\bvol\b"
    r"|\bpp\b",
    re.IGNORECASE,
)
_MONTHS = ("Jan", "Apr", "May", "Jun", "Aug", "Dec")
_LEVELS = ("INFO", "WARN", "ERROR", "DEBUG", "[info]", "warning:", "FATAL", "E", "I")


class Negatives:
    """Draws texts without private data.

    Parameters
    ----------
    prose : Prose
        English words.
    numbers : random.Random
        The random numbers.
    """

    def __init__(self, prose: Prose, numbers: random.Random) -> None:
        self._prose = prose
        self._random = numbers
        self._excerpts = _excerpts()
        self._kinds: tuple[Callable[[], str], ...] = (
            *(self._excerpt,) * 4,
            self._program,
            self._log,
            self._table,
            self._data,
            *(self._foreign,) * 5,
        )

    def text(self) -> str:
        """Return a text of some kind."""
        return self._random.choice(self._kinds)()

    def _excerpt(self) -> str:
        return self._random.choice(self._excerpts)

    def _name(self) -> str:
        """Return a name as programs have them."""
        word, other = self._prose.word(), self._prose.word()
        short = word[: self._random.randint(1, 4)]
        return self._random.choice(
            (
                *(short, word, f"{word}_{other}", f"{short}_{other}", word + other.capitalize()),
                *(word.capitalize() + other.capitalize(), word.upper(), f"{short}{self._digit()}"),
                self._random.choice("abcdefghijklmnopqrstuvwxyz"),
            )
        )

    def _digit(self) -> int:
        return self._random.randint(0, 9)

    def _hex(self, size: int) -> str:
        return "".join(self._random.choices("0123456789abcdef", k=size))

    def _identifier(self) -> str:
        """Return a number, a hash, a version or another value that stands for something."""
        number, digit = self._random.randint, self._digit
        return self._random.choice(
            (
                *(self._hex(size) for size in (8, 32, 40, 64)),
                "-".join(map(self._hex, (8, 4, 4, 4, 12))),
                f"{digit()}.{number(0, 40)}.{number(0, 30)}",
                f"v{digit()}.{number(0, 40)}-rc{digit()}",
                str(number(1_000_000_000, 1_900_000_000)),
                f"0x{self._hex(8)}",
                f"{number(0, 99999)}.{number(0, 999):03}",
                f"{self._name()}-{self._hex(5)}",
                "".join(self._random.choices(string.ascii_letters + string.digits, k=22)),
            )
        )

    def _call(self) -> str:
        arguments = ", ".join(
            self._random.choice(
                (self._name(), self._name(), str(self._digit()), f'"{self._name()}"')
            )
            for _ in range(self._random.randint(0, 3))
        )
        return f"{self._name()}({arguments})"

    def _program(self) -> str:
        """Return some lines in the manner of widespread programming languages."""
        name, call = self._name, self._call
        forms: tuple[Callable[[], str], ...] = (
            lambda: f"def {name()}({name()}, {name()}={self._digit()}):",
            lambda: f"    if {name()} > {self._digit()}:",
            lambda: f"    elif {name()} == {call()}:",
            lambda: f"    return {call()}",
            lambda: f"for {name()} in {call()}:",
            lambda: f"{name()} = {call()}",
            lambda: f"const {name()} = await {name()}.{call()};",
            lambda: f"public static {name()} {name()}({name()} {name()}) {{",
            lambda: f"  {name()}->{call()};",
            lambda: f"#include <{name()}.h>",
            lambda: f"import {name()} from '{name()}';",
            lambda: f"SELECT {name()}, {name()} FROM {name()} WHERE {name()} = {self._digit()};",
            lambda: f'<{name()} class="{name()}">{self._prose.word()}</{name()}>',
            lambda: f"$ {name()} --{name()} {name()} | {name()} -{name()[:1]}",
            lambda: f"assert {call()} == [{self._digit()}, {self._digit()}]",
            lambda: f"let mut {name()}: Vec<{name()}> = {name()}::{call()};",
            lambda: f"# {self._prose.sentence()}",
            lambda: f"// {self._prose.sentence()}",
            lambda: f"max({name()}, {name()}) + min({name()}, {name()})",
            lambda: "}",
        )
        lines = [self._random.choice(forms)() for _ in range(self._random.randint(1, 9))]
        intro = self._prose.sentence() + "\n" if self._random.random() < 0.3 else ""
        return intro + "\n".join(lines)

    def _log(self) -> str:
        number = self._random.randint
        stamp = self._random.choice(
            (
                f"2026-{number(1, 12):02}-{number(1, 28):02}"
                f"T{number(0, 23):02}:{number(0, 59):02}Z",
                f"[{number(1, 99999)}.{number(0, 999999):06}]",
                f"{number(0, 23):02}:{number(0, 59):02}:{number(0, 59):02}",
                f"{self._random.choice(_MONTHS)} {number(1, 28)}",
            )
        )
        lines = [
            f"{stamp} {self._random.choice(_LEVELS)} {self._name()}: "
            + self._random.choice(
                (
                    f"{self._name()} {self._identifier()} {self._prose.word()}",
                    self._prose.sentence().lower().rstrip(".?!"),
                    f"{self._name()}={self._identifier()} {self._name()}={self._digit()}",
                    f"link up, {self._name()} {self._prose.word()}ed",
                )
            )
            for _ in range(number(1, 4))
        ]
        return "\n".join(lines)

    def _table(self) -> str:
        """Return a table with bars, commas or gaps."""
        gap = self._random.choice((" | ", ",", "\t", ";", "  "))
        width = self._random.randint(2, 5)
        header = gap.join(self._prose.word().capitalize() for _ in range(width))
        rows = [
            gap.join(
                self._random.choice(
                    (self._prose.word(), self._identifier(), str(self._random.randint(0, 5000)))
                )
                for _ in range(width)
            )
            for _ in range(self._random.randint(1, 5))
        ]
        return "\n".join((header, *rows))

    def _data(self) -> str:
        """Return settings, JSON, or a sentence with values."""
        pairs = [(self._name(), self._identifier()) for _ in range(self._random.randint(1, 5))]
        form = self._random.randrange(4)
        if form == 0:
            return "{" + ", ".join(f'"{key}": "{value}"' for key, value in pairs) + "}"
        if form == 1:
            return "\n".join(f"{key}: {value}" for key, value in pairs)
        if form == 2:
            return "\n".join(f"{key.upper()}={value}" for key, value in pairs)
        return " ".join(f"{self._prose.sentence()} {key} {value}" for key, value in pairs[:2])

    def _foreign(self) -> str:
        """Return one to three sentences of a language."""
        language = self._random.choice(tuple(LANGUAGES))
        sentences, words, nouns = _language(language)
        return " ".join(
            self._foreign_sentence(self._random.choice(sentences), words, nouns)
            for _ in range(self._random.randint(1, 3))
        )

    def _foreign_sentence(
        self, sentence: str, words: tuple[str, ...], nouns: tuple[str, ...]
    ) -> str:
        def fill(slot: re.Match[str]) -> str:
            if slot[1] == "d":
                return str(self._random.randint(2, 400))
            if slot[1] == "s":
                drawn = self._random.choices(words, k=self._random.randint(4, 14))
                text = " ".join(drawn)
                return text[0].upper() + text[1:] + "."
            return self._random.choice(nouns if slot[1] == "n" else words)

        return _SLOT.sub(fill, sentence)


@functools.cache
def _language(language: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the sentences, words and nouns of a language; only German's nouns are marked."""
    start = f"{language}: "
    sentences = tuple(
        line.removeprefix(start) for line in lines_of("foreign.txt") if line.startswith(start)
    )
    provider = importlib.import_module(f"faker.providers.lorem.{LANGUAGES[language]}").Provider
    words = tuple(provider.word_list)
    nouns = tuple(word for word in words if word[0].isupper()) if language == "de" else words
    return (*sentences, "{s}", "{s}"), words, nouns


@functools.cache
def _excerpts() -> tuple[str, ...]:
    """Return pieces of the packages' programs, each of a few lines."""
    pieces = []
    for package in _PACKAGES:
        module = importlib.import_module(package)
        folder = Path(str(module.__file__)).parent
        for path in sorted(folder.rglob("*.py"), key=lambda path: path.as_posix()):
            if any(part in ("externals", "_lib", "vendored") for part in path.parts):
                continue
            paragraphs = re.split(r"\n\s*\n", path.read_text("utf-8", "replace"))
            # A few of each file, so that no module outweighs the others.
            pieces += [
                paragraph[:600]
                for paragraph in paragraphs[3::7][:20]
                if len(paragraph) > 40 and not _NAMED.search(paragraph)
            ]
    return tuple(pieces)
