"""Findings that may leave because somebody has said so: values, domains and patterns."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from floe_plugins.errors import ConfigError
from floe_plugins.gate.detector import Span

ALLOW_HELP = (
    "findings that may leave. `values`: whole values, in any case, such as your company's name and "
    "support address. `domains`: mail addresses and pages of a domain and those below it. "
    "`patterns`: regular expressions that match a whole finding"
)
ALLOW_ACCEPTED = "an object with `values`, `domains`, `patterns`, each a list of texts"
_KEYS = ("values", "domains", "patterns")

# The domain of a mail address or a page.
_DOMAIN = re.compile(
    r"(?:https?://(?:[^/\s@]*@)?|[^\s@]+@|(?=www\.))(?P<domain>[\w.-]+?)\.?(?::\d+)?(?:[/?#]\S*)?",
    re.IGNORECASE,
)
# A domain, in lower case.
_NAME = re.compile(r"[\w-]+(?:\.[\w-]+)*")
# An expression of the configuration is not tried on longer findings: it may be slow.
_MOST_CHARS = 256


@dataclass(frozen=True)
class AllowLists:
    """What may leave, whatever it is taken for.

    Attributes
    ----------
    values : re.Pattern or None
        Matches any allowed value that stands by itself.
    domains : frozenset of str
        In lower case.
    patterns : tuple of re.Pattern
        Each for a whole finding.
    """

    values: re.Pattern[str] | None = None
    domains: frozenset[str] = frozenset()
    patterns: tuple[re.Pattern[str], ...] = ()

    @classmethod
    def of(cls, table: Mapping[str, Sequence[str]] | None) -> AllowLists:
        """Read a table with lists of ``values``, ``domains`` and ``patterns``.

        Raises
        ------
        ConfigError
            A key is unknown, a list is not one of texts, or a pattern is no regular expression.
        """
        if table is None:
            return cls()
        if not isinstance(table, Mapping):
            raise ConfigError(
                f"The gate's allow is {table!r}; accepted is an object with {', '.join(_KEYS)}."
            )
        for key, listed in table.items():
            if key not in _KEYS:
                raise ConfigError(
                    f"The gate's allow has the key {key!r}; accepted are {', '.join(_KEYS)}."
                )
            if isinstance(listed, str) or not all(
                isinstance(each, str) and each.strip() for each in listed
            ):
                raise ConfigError(
                    f"The gate's allow.{key} is {listed!r}; accepted is a list of texts, none of "
                    "them empty."
                )
        domains = [each.lower().strip(".") for each in table.get("domains", ())]
        if wrong := [each for each in domains if not _NAME.fullmatch(each)]:
            raise ConfigError(
                f"The gate's allow.domains has {wrong[0]!r}; accepted is a domain alone, such as "
                "'example.com'."
            )
        return cls(
            _any_of(table.get("values", ())),
            frozenset(domains),
            tuple(map(_expression, table.get("patterns", ()))),
        )

    @property
    def any(self) -> bool:
        """Whether anything is allowed."""
        return self.values is not None or bool(self.domains or self.patterns)

    def allowed(self, text: str, spans: Collection[Span]) -> set[Span]:
        """Return the findings in a text that are allowed, as wholes or as parts of a value.

        What lies within another finding that is allowed is allowed with it.
        """
        if not self.any:
            return set()
        stretches = self.places(text)
        stretches += [
            (span.start, span.end)
            for span in spans
            if self._is_allowed(text[span.start : span.end])
        ]
        stretches.sort()
        starts = [start for start, _ in stretches]
        # A finding lies in one of the stretches that begin before it if any of these ends after it.
        ends = list(accumulate((end for _, end in stretches), max))
        return {
            span
            for span in spans
            if (place := bisect_right(starts, span.start)) and span.end <= ends[place - 1]
        }

    def places(self, text: str) -> list[tuple[int, int]]:
        """Return where allowed values stand in a text."""
        return [] if self.values is None else [m.span() for m in self.values.finditer(text)]

    def _is_allowed(self, value: str) -> bool:
        if len(value) > _MOST_CHARS:
            return False
        if any(pattern.fullmatch(value) for pattern in self.patterns):
            return True
        match = _DOMAIN.fullmatch(value) if self.domains else None
        if match is None:
            return False
        parts = match["domain"].lower().split(".")
        return any(".".join(parts[place:]) in self.domains for place in range(len(parts)))


def _any_of(values: Sequence[str]) -> re.Pattern[str] | None:
    """Return a pattern of values that are not parts of longer words, numbers or addresses."""
    if not values:
        return None
    longest_first = sorted(map(str.strip, values), key=len, reverse=True)
    return re.compile(
        r"(?<![\w@+])(?<!\w[.-])(?:"
        + "|".join(map(re.escape, longest_first))
        + r")(?![\w@]|[.-]\w)",
        re.IGNORECASE,
    )


def _expression(written: str) -> re.Pattern[str]:
    try:
        return re.compile(written)
    except re.error as error:
        raise ConfigError(
            f"The gate's allow.patterns has {written!r}; accepted are regular expressions "
            f"({error})."
        ) from None
