"""Searches with patterns, faster than `re` does by itself."""

import re
from collections.abc import Iterable, Iterator
from itertools import groupby

# Letters that match others without regard to case, but do not become them in lower case.
_FOLDED = re.compile("[ſİıﬅﬆ]")


def in_lower(text: str) -> str | None:
    """Return a text in lower case, if patterns find the same in it that they find in any case.

    A pattern of lower-case letters is many times faster there than without regard to case.

    Returns
    -------
    str or None
        As long as the text; None if letters of it have more than one lower-case form.
    """
    lower = text.lower()
    if len(lower) != len(text) or (not text.isascii() and _FOLDED.search(text)):
        return None
    return lower


def lower_in_place(text: str) -> str:
    """Return a text in lower case with every character where it was.

    The few letters that become two in lower case stay as they are.
    """
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)


def matches_at(
    starts: re.Pattern[str], pattern: re.Pattern[str], text: str, *, there: str | None = None
) -> Iterator[re.Match[str]]:
    """Yield the matches of a pattern, like `finditer`, but try it only at some places.

    Parameters
    ----------
    starts : re.Pattern
        Where matches may begin. A pattern that begins with a set of characters is many times faster
        than one that begins with a look-behind.
    there : str, optional
        The text in which `starts` is searched, with the same places; by default `text`.
    """
    done = 0
    for start in starts.finditer(text if there is None else there):
        if start.start() >= done:
            match = pattern.match(text, start.start())
            if match is not None:
                done = match.end()
                yield match


def any_of(words: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that matches any of some words; sooner than one that lists them all."""
    return re.compile(_from_tree(sorted(set(words))))


def _from_tree(words: list[str]) -> str:
    """Return a pattern for sorted words, in which those that begin alike share the beginning."""
    if not words[0]:
        # What begins with a word that is found says nothing more.
        return ""
    by_letter = groupby(words, key=lambda word: word[0])
    branches = [
        re.escape(letter) + _from_tree([word[1:] for word in group]) for letter, group in by_letter
    ]
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"
