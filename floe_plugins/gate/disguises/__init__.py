"""Builds the views of a text: its possible readings once disguises are undone."""

import re

from floe_plugins.gate.disguises.characters import changes, has_look_alikes, normalised
from floe_plugins.gate.disguises.encodings import decoded
from floe_plugins.gate.disguises.spelled_out import (
    CHINESE,
    closed_up,
    counted,
    counts,
    counts_apart,
    may_be_number,
    spelled_out,
)
from floe_plugins.gate.disguises.view import View
from floe_plugins.gate.growing import LONG_WORD, Cues, Growing, Words, beginning

# What a disguise ends with: a digit or single characters; or, further back, something encoded, a
# sign or a word of a spelled-out address, a turn of a chat.
_APART = (
    r"(?<![^\W_])[^\W_][\W_]{1,3}[^\W_][\W_]{1,3}[^\W_](?![^\W_])"
    r"|(?<!\S)\S[ \t]\S[ \t]\S(?!\S)"
)
_ENDS = re.compile(_APART)
_SHORT_MARKS = (
    r"[%&\\@]|[\[({<]\s{0,2}(?:at|ät|arroba|arobase|dot|punkt|punto|ponto|point|\.)"
    r"|dot|punkt|punto|ponto|\spoint\s|arroba|arobase"
    r"|\n(?:user|assistant|system|model|human)\n"
)
_AT_DOMAIN = r"\s(?:at|ät)\s[\w.+-]{1,64}\."
_MARKS = re.compile(rf"{_SHORT_MARKS}|{_AT_DOMAIN}")
_END_CHARS, _MARK_CHARS = 40, 96
# One of these is in what is new, or soon before it, if anything of what follows is. In lower case
# one letter has such a dot, and then is two characters.
_SIGNS = Cues(
    re.compile(rf"{_SHORT_MARKS}|{_APART}|[\u0307{CHINESE}]").search,
    longest=16,
    within=_MARK_CHARS,
)
_AT = Cues(re.compile(_AT_DOMAIN).search, longest=72, within=_MARK_CHARS)
_NUMBER_WORDS = Words(counted, within=_MARK_CHARS)
#: As long as a domain may be.
_ADDRESS_CHARS = 300
#: Characters of a part that a view may leave out; more are a padding, which hides what is before.
_LEFT_OUT = 64
#: Before new text: the longest disguised value, and the longest disguised number.
_REACH, _NUMBER_CHARS = 512, 256
_SPECIAL = Cues(changes, longest=0, within=_REACH, lower=False)


def new_views(grown: Growing) -> tuple[int, str, tuple[View, ...]] | None:
    """Return the views of new text, and of what is before it as far as that may belong to it.

    Returns
    -------
    begin : int
        Where the part begins that the views are of.
    plain : str
        The first view's text up to where new text begins, if that only replaces characters one by
        one; otherwise empty.
    views : tuple of View
        None for most new text.
    None
        In place of all, if a part says less than the whole.
    """
    text, new_from = grown.text, grown.new_from
    # What is told sooner of so short a part is told first.
    signs = _SIGNS.near(grown)
    end = text[max(0, new_from - _MARK_CHARS) :].lower()
    special = (
        not text.isascii() and _SPECIAL.near(grown) and changes(text[max(0, new_from - _REACH) :])
    )
    marked = (
        text.find("@", max(0, new_from - _ADDRESS_CHARS)) >= 0
        or ((signs or _AT.near(grown)) and _MARKS.search(end) is not None)
        or _is_encoded(grown)
    )
    ends = (
        (
            grown.since_digit <= _END_CHARS
            and may_be_number(text[max(0, new_from - _NUMBER_CHARS) :])
        )
        or (signs and _ENDS.search(text, max(0, new_from - _END_CHARS)) is not None)
        or ((signs or _NUMBER_WORDS.near(grown)) and counts(end))
    )
    if not (special or marked or ends):
        return 0, "", ()
    # What is encoded, or has marks of its own, may be longer than a number.
    begin = beginning(text, new_from - (_REACH if special or marked else _NUMBER_CHARS))
    part = text[begin:]
    if special and has_look_alikes(part):
        return None
    # Whether characters that stand apart are joined depends on how many the whole text has.
    views = views_of(part, of_apart=ends and begin > 0 and counts_apart(text))
    if special and views and len(part) - len(views[0].text) > _LEFT_OUT:
        return None
    if not special or not views or views[0].values_only:
        return begin, "", views
    old = text[begin:new_from]
    plain = normalised(old)
    return begin, old if plain is None else plain.text, views


def _is_encoded(grown: Growing) -> bool:
    """Return whether a text may have something encoded that new text belongs to."""
    if not LONG_WORD.near(grown, _MARK_CHARS):
        return False
    text, new_from = grown.text, grown.new_from
    last = text[text.rfind(" ", 0, new_from) + 1 :]
    # Nothing was before, and an encoded word has no space.
    if grown.known.get(_is_encoded) == new_from and LONG_WORD.find(last.lower()) is None:
        found = False
    else:
        found = decoded(text[beginning(text, new_from - _REACH) :]) is not None
    if not found:
        grown.known[_is_encoded] = len(text)
    return found


def views_of(text: str, parent: View | None = None, *, of_apart: bool = False) -> tuple[View, ...]:
    """Return the views of a text; none for ordinary prose.

    Each view is made from the one before it, which undoes disguises within disguises, and only
    where the text has such a disguise.

    Parameters
    ----------
    text : str
        Any text without lone surrogates.
    parent : View, optional
        The view that the text is from.
    of_apart : bool, optional
        As for `closed_up`.

    Returns
    -------
    tuple of View
        At most four, in time linear in the text, all different from the text and from each other.
    """
    views: list[View] = []

    def last() -> View | None:
        return views[-1] if views else parent

    def current() -> str:
        return views[-1].text if views else text

    plain = normalised(text, parent)
    if plain is not None:
        views.append(plain)
    once = decoded(current(), last())
    if once is not None:
        # Some texts are encoded twice, and encodings hide other disguises.
        twice = decoded(once.text, once) or once
        views.append(normalised(twice.text, twice) or twice)
    spelled = spelled_out(current(), last())
    if spelled is not None:
        views.append(spelled.for_values())
    closed = closed_up(current(), last(), of_apart=of_apart)
    if closed is not None:
        views.append(closed.for_values())
    return tuple(view for view in views if view.text != text)
