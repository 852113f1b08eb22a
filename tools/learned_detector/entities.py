"""Draws private things: people, places, addresses and organizations, written in many ways."""

import functools
import random
import string
from bisect import bisect
from collections.abc import Callable
from itertools import accumulate

from faker import Faker

from tools.learned_detector.listed import listed
from tools.learned_detector.sources import LOCALES, Sources

SKIPPED = "SKIPPED"
"""The label of what other detectors find: it is in the text, but nothing is learned from it."""

_PER_LOCALE = 60
_LISTS = listed("entities.txt")


class Entities:
    """Draws private things by kind.

    Parameters
    ----------
    found : Sources
        Names and places.
    numbers : random.Random
        The random numbers.
    """

    def __init__(self, found: Sources, numbers: random.Random) -> None:
        self._random = numbers
        self._us_first = _shared(found.us_first, 0.8)
        self._us_last = _shared(found.us_last, 0.8)
        self._found = found
        self._cities = [name for name, _ in found.cities]
        self._pools = _pools()
        self._kinds: dict[str, tuple[Callable[[], str], str]] = {
            "first": (self._first, "PERSON"),
            "last": (self._last, "PERSON"),
            "person": (self._person, "PERSON"),
            "lastfirst": (lambda: f"{self._last()}, {self._first()}", "PERSON"),
            "city": (self._city, "LOCATION"),
            "country": (self._country, "LOCATION"),
            "street": (self._street, "ADDRESS"),
            "address": (self._address, "ADDRESS"),
            "org": (self._organization, "ORGANIZATION"),
            "orgwords": (self._organization_of_words, "ORGANIZATION"),
            "PERSON": (lambda: self._person().upper(), "PERSON"),
            "CITY": (lambda: self._city().upper(), "LOCATION"),
            **{
                f"{language}street": (functools.partial(self._street_in, language), "ADDRESS")
                for language in ("de", "fr", "es", "it")
            },
            "zip": (lambda: self._digits("#####"), SKIPPED),
            "phone": (lambda: self._digits("+## ### #######"), SKIPPED),
            "email": (lambda: f"{self._first().lower()}@example.com", SKIPPED),
            "date": (self._date, SKIPPED),
        }

    def make(self, kind: str) -> tuple[str, str]:
        """Return one thing of a kind and its label."""
        maker, label = self._kinds[kind]
        return maker().strip() or self._city(), label

    def eponym(self) -> str:
        """Return something that is named after a person and is not private."""
        name = self._last() if self._random.random() < 0.7 else f"{self._last()}-{self._last()}"
        return self._random.choice(_LISTS["eponyms"]).format(name)

    def _first(self) -> str:
        draw = self._random.random()
        if draw < 0.45:
            return self._pick(self._us_first)
        name = self._random.choice(self._found.first[self._random.choice(LOCALES)])
        if draw < 0.47:
            return f"{name}-{self._pick(self._us_first)}"
        return name

    def _last(self) -> str:
        draw = self._random.random()
        if draw < 0.45:
            return self._pick(self._us_last)
        name = self._random.choice(self._found.last[self._random.choice(LOCALES)])
        if draw < 0.49:
            particle = self._random.choice(_LISTS["particles"])
            return particle + ("" if particle in ("O'", "Mac") else " ") + name
        if draw < 0.51:
            return f"{name}-{self._pick(self._us_last)}"
        return name

    def _person(self) -> str:
        draw = self._random.random()
        if draw < 0.25:
            # Both names of one country.
            locale = self._random.choice(LOCALES)
            first, last = self._found.first[locale], self._found.last[locale]
            if locale in ("zh_CN", "zh_TW", "ja_JP", "ko_KR"):
                return self._random.choice(last) + self._random.choice(first)
            return f"{self._random.choice(first)} {self._random.choice(last)}"
        if draw < 0.32:
            return f"{self._first()} {self._random.choice(string.ascii_uppercase)}. {self._last()}"
        if draw < 0.36:
            return f"{self._first()} {self._first()} {self._last()}"
        if draw < 0.38:
            return f"{self._random.choice(string.ascii_uppercase)}. {self._last()}"
        if draw < 0.46:
            return self._first() if draw < 0.43 else self._last()
        return f"{self._first()} {self._last()}"

    def _city(self) -> str:
        draw = self._random.random()
        if draw < 0.2:
            return self._random.choice(self._pools["city"])
        if draw < 0.24:
            part = self._random.choice(self._cities)
            return f"{part} {self._random.choice(('N', 'East', '1', 'V'))}"
        return self._random.choice(self._cities)

    def _country(self) -> str:
        return self._random.choice(self._found.countries)

    def _street(self) -> str:
        draw = self._random.random()
        name = self._last() if draw < 0.5 else self._random.choice(self._cities)
        number = str(self._random.randint(1, 400))
        if draw % 0.1 < 0.05:
            street = f"{name} {self._random.choice(_LISTS['streets'])}"
            return f"{number} {street}" if self._random.random() < 0.7 else street
        if draw % 0.1 < 0.06:
            return self._random.choice(self._pools["street"])
        street = self._random.choice(_LISTS["street_forms"]).format(name)
        return f"{street} {number}" if self._random.random() < 0.7 else street

    def _address(self) -> str:
        draw = self._random.random()
        if draw < 0.3:
            return self._random.choice(self._pools["address"])
        if draw < 0.34:
            return self._digits(
                f"Unit #### Box ####\n{self._random.choice(_LISTS['military'])} #####"
            )
        if draw < 0.37:
            return self._digits("P.O. Box ####") + self._random.choice(("", f", {self._city()}"))
        gap = self._random.choice((", ", ", ", "\n", " "))
        parts = [self._street()]
        if self._random.random() < 0.3:
            parts.append(
                self._digits(self._random.choice(("Apt. ###", "Suite ###", "Apt ##", "Unit #")))
            )
        parts.append(self._city())
        if self._random.random() < 0.6:
            parts[-1] += self._digits(
                self._random.choice(
                    (
                        " #####",
                        f", {self._random.choice(_LISTS['states'])} #####",
                        f" {self._random.choice(_LISTS['states'])}",
                    )
                )
            )
        if self._random.random() < 0.25:
            parts.append(self._country())
        if self._random.random() < 0.15:
            parts[-2:-1] = [self._digits("##### ") + parts[-2]]
        return gap.join(parts)

    def _organization(self) -> str:
        draw = self._random.random()
        if draw < 0.25:
            return self._random.choice(self._pools["company"])
        if draw < 0.4:
            return self._random.choice(_LISTS["well_known"])
        name = self._random.choice((self._last, self._city, self._coined, self._coined))()
        if draw < 0.55:
            return f"{name} {self._random.choice(_LISTS['suffixes'])}"
        if draw < 0.75:
            return f"{name} {self._random.choice(_LISTS['trades'])}"
        if draw < 0.8:
            return f"{self._last()} & {self._last()}"
        if draw < 0.84:
            return f"{self._last()}, {self._last()} and {self._last()}"
        if draw < 0.87:
            return f"{self._random.choice(_LISTS['trades'])} of {self._city()}"
        if draw < 0.9:
            return "".join(
                self._random.choices(string.ascii_uppercase, k=self._random.randint(3, 4))
            )
        return self._coined()

    def _organization_of_words(self) -> str:
        """Return a name of ordinary words, such as "Rapid Cycle Solutions"."""
        words = [self._random.choice(self._pools["word"]).capitalize() for _ in range(2)]
        return " ".join((*words[: self._random.randint(1, 2)], self._trade()))

    def _trade(self) -> str:
        return self._random.choice(_LISTS["trades"])

    def _street_in(self, language: str) -> str:
        """Return a street and a number as a language writes them."""
        form = self._random.choice(_LISTS[f"{language}_streets"])
        return form.format(self._last(), self._random.randint(1, 200))

    def _coined(self) -> str:
        """Return a made-up name of one or two joined words."""
        first, second = (self._random.choice(self._pools["word"]).capitalize() for _ in range(2))
        draw = self._random.random()
        if draw < 0.35:
            return first + second
        if draw < 0.7:
            return first + second.lower()
        return first[: self._random.randint(3, 5)] + self._random.choice(
            ("ify", "ix", "ia", "ly", "oma", "tech", "soft", "ora")
        )

    def _date(self) -> str:
        day, month, year = (
            self._random.randint(*ends) for ends in ((1, 28), (1, 12), (1930, 2025))
        )
        return self._random.choice(
            (f"{month}/{day}/{year}", f"{year}-{month:02}-{day:02}", f"{day}.{month}.{year}")
        )

    def _digits(self, form: str) -> str:
        return "".join(str(self._random.randint(0, 9)) if sign == "#" else sign for sign in form)

    def _pick(self, shared: tuple[list[str], list[float]]) -> str:
        names, shares = shared
        return names[min(bisect(shares, self._random.random() * shares[-1]), len(names) - 1)]


def _shared(shares: dict[str, float], power: float) -> tuple[list[str], list[float]]:
    names = sorted(shares)
    return names, list(accumulate(shares[name] ** power for name in names))


@functools.cache
def _pools() -> dict[str, list[str]]:
    """Let Faker generate values of every kind in every locale."""
    pools: dict[str, list[str]] = {kind: [] for kind in ("address", "city", "company", "street")}
    for number, locale in enumerate(LOCALES):
        maker = Faker(locale)
        maker.seed_instance(number)
        makers = {
            "address": maker.address,
            "city": maker.city,
            "company": maker.company,
            "street": maker.street_address,
        }
        if locale == "it_IT":
            # Faker draws it from a set, whose order differs between processes.
            del makers["city"]
        for kind, make in makers.items():
            pools[kind] += [make() for _ in range(_PER_LOCALE)]
    english = Faker("en_US")
    english.seed_instance(0)
    pools["word"] = sorted({english.word() for _ in range(20_000)})
    return pools
