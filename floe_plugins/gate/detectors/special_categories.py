"""Statements about a person's health, faith, politics, sexuality, origin, violence or crimes.

A word alone is not private: "what helps against asthma?" is a question, "my son has asthma" a
statement about a person. So each rule joins a person and what is said of them. A text is turned
into a string with one sign per word, the word's part in such a statement, and the rules are
regular expressions over these signs.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from floe_plugins.gate.detector import Span
from floe_plugins.gate.detectors.special_phrases import ITALIAN, OTHER_LANGUAGES
from floe_plugins.gate.detectors.special_terms import PARTS
from floe_plugins.gate.growing import EVERYWHERE, Growing, Words
from floe_plugins.gate.matching import lower_in_place

# Shortened words such as "'ve" stand alone; a blank line ends a sentence like a full stop does.
_TOKEN = re.compile(r"[^\W_]+|'[^\W_]{1,2}(?![^\W_])|[.!?;](?=\s|$)|[,:\"“”]|\n\s*\n")
_WORD = re.compile(r"[^\W_]+")
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_OTHER, _NUMBER, _END, _COMMA = "x", "9", ".", ","

# Ends of names of illnesses, operations and medicines, which no list holds all of.
_ILLNESSES = (
    "itis",
    "osis",
    "ectomy",
    "emia",
    "aemia",
    "opathy",
    "algia",
    "plasty",
    "uria",
    "rrhea",
)
_MEDICINES: tuple[str, ...] = (
    "pril",
    "olol",
    "statin",
    "cillin",
    "mycin",
    "oxetine",
    "zepam",
    "prazole",
    "sartan",
)
_MEDICINES += ("triptyline", "gliptin", "floxacin", "setron", "tidine", "cycline", "dronate")
_ENDINGS = _ILLNESSES + _MEDICINES
_SHORT = 6
# Before new text: the words after the topic of a statement, and those of the longest rule.
_NEAR_CHARS, _REACH = 240, 384
# Words before new text that may be parts of a phrase with it.
_PHRASE_CHARS = 96

# Rules: label, and the signs. `{who}` is a person; `_` stands for words of one sentence that
# neither deny nor ask about something, `-` for any words of one sentence. The group holds the
# finding.
_WHO = r"(?:[IETD]|[YZ][^.QN]{0,3}R|[xI]R)"
_RULES: Final[tuple[tuple[str, str], ...]] = (
    # "My son has asthma", "I was diagnosed with diabetes", "she complains of chest pain".
    ("HEALTH", r"{who}_{0,4}[HB]_{0,6}?(?P<f>[cl](?:[,&]+x?[cl])*)"),
    ("HEALTH", r"{who}_{0,2}[HBK]_{0,4}?(?P<f>m)"),
    ("HEALTH", r"[IT]_{0,3}(?P<f>[cm])(?=_{0,3}[JKH])"),
    # "My anxiety", "my therapist", "his insulin", "my blood pressure".
    ("HEALTH", r"[YZ][^.QN,]{0,2}(?P<f>[cmdiz])"),
    ("HEALTH", r"Y(?P<f>l)"),
    ("HEALTH", r"(?:[IY]|[YZ]_{0,3}R)_{0,8}?(?P<f>c)"),
    ("HEALTH", r"[YZ]_{0,3}R_{0,4}J_{0,1}(?P<f>c)"),
    ("HEALTH", r"{who}-{0,3}[HB]_{0,2}(?P<f>i)"),
    ("HEALTH", r"{who}_{0,3}B_{0,3}?(?P<f>s)"),
    ("HEALTH", r"I_{0,3}Bx{0,2}(?P<f>~)"),
    ("HEALTH", r"(?:A|xM)_{0,1}(?P<f>[s~])(?=-{0,4}[IYR.]|$)"),
    # "My back hurts", "a lump in my breast", "I broke my arm".
    ("HEALTH", r"[YZ][xX]{0,2}(?P<f>b_{0,4}h)"),
    ("HEALTH", r"(?P<f>[lc]_{0,3}[JKn]_{0,2}[YZ]x{0,2}b)"),
    ("HEALTH", r"[IET]_{0,3}(?P<f>h_{0,1}[YZ]x{0,2}b)"),
    # "The patient takes warfarin", "I use cocaine", "allergic to penicillin".
    ("HEALTH", r"{who}_{0,4}K_{0,4}?(?P<f>[du](?:[,&]+x?[du])*)"),
    ("HEALTH", r"{who}_{0,2}%(?P<f>[xcdu])"),
    ("HEALTH", r"{who}_{0,2}H_{0,3}?(?P<f>u)"),
    # Clinical notes: "patient is a 38-year-old male with a history of headaches".
    ("HEALTH", r"T-{0,14}?(?P<f>[cldm])"),
    ("HEALTH", r"T,[^TQ]{0,40}?(?P<f>[cldms])"),
    ("HEALTH", r"9a[xWR,]?-{0,9}?[HJ]-{0,5}?(?P<f>[clm])"),
    # "I've had thoughts of not wanting to be alive", "I can't sleep".
    ("HEALTH", r"(?:[IETM]|[YZ]-{0,3}R)-{0,10}?(?P<f>[zy])"),
    # "My husband hits me", "I was raped", "my abusive father".
    ("CRIME", r"(?:[ER]|xI)-{0,4}?(?P<f>[vh]-{0,2}M)"),
    ("CRIME", r"(?P<f>vM)(?!x?J)"),
    ("CRIME", r"[RE]-{0,3}(?P<f>v[YZ]_{0,1}R)"),
    ("CRIME", r"[YZ]_{0,3}R_{0,3}(?P<f>vZ)"),
    ("CRIME", r"(?:I|[YZ]_{0,3}R|E)_{0,2}B_{0,2}(?P<f>v(?:_{0,4}[RE])?)"),
    ("CRIME", r"(?:I|[YZ]_{0,3}R|E)_{0,6}?(?P<f>w)"),
    ("CRIME", r"[YZ][^.QN,]{0,2}(?P<f>w)"),
    # Faith, politics, orientation, origin.
    ("RELIGION", r"{who}_{0,1}B_{0,3}?(?P<f>f)(?!x?x?[QF])"),
    ("RELIGION", r"A_{0,2}(?P<f>f)(?=-{0,4}[IY])"),
    ("RELIGION", r"Y_{0,1}(?P<f>F)"),
    ("RELIGION", r"{who}_{0,3}(?P<f>X_{0,2}[FO])"),
    ("POLITICS", r"{who}_{0,2}B_{0,3}?(?P<f>p)"),
    ("POLITICS", r"[IERYZ]_{0,3}(?P<f>P[^.QN,P]{0,3}?[Gp])"),
    ("UNION", r"{who}_{0,3}(?P<f>P_{0,4}?U+)"),
    ("UNION", r"Y_{0,1}(?P<f>U)"),
    ("UNION", r"{who}_{0,1}B_{0,2}(?P<f>U)"),
    ("SEXUALITY", r"{who}_{0,1}B_{0,3}?(?P<f>g)"),
    ("SEXUALITY", r"A_{0,2}(?P<f>g)(?=-{0,4}[IY])"),
    ("SEXUALITY", r"(?:[YI]|[YZ]_{0,3}R)-{0,4}?(?P<f>[SC](?:_{0,2}[gMYZ])?)"),
    ("SEXUALITY", r"[ER]-{0,4}?(?P<f>C(?:_{0,2}[gMYR])?)"),
    ("ETHNICITY", r"{who}_{0,1}B_{0,3}?(?P<f>o)(?!Q)"),
    ("ETHNICITY", r"[IETRY]-{0,6}?(?P<f>e)"),
    # Crimes: with what they were for.
    ("CRIME", r"{who}_{0,1}[BH]?_{0,3}?(?P<f>j(?:J[^.,&IYE](?:x(?=[.,&]|$))?)?)"),
    ("CRIME", r"[YZ]_{0,1}(?P<f>q)"),
    ("CRIME", r"{who}_{0,3}H_{0,3}?(?P<f>q)"),
    ("CRIME", r"[IE]_{0,3}(?P<f>t_{0,2})"),
    # Ages of somebody.
    ("AGE", r"(?:T|[YZ]_{0,3}R|D)-{0,6}?(?P<f>9a|n9)"),
    ("AGE", r"I_{0,1}B_{0,1}(?P<f>9a?)(?=[.a&W,]|$)(?<!9,)"),
    ("AGE", r"(?:Y|T|xx?)(?P<f>9a)(?=_{0,2}[WR])(?<=[YT]9a)"),
    ("AGE", r"I-{0,5}(?P<f>n9)"),
)


def _lower(text: str) -> str:
    return lower_in_place(text).replace("’", "'")


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(_lower(text))


class _Parts:
    """The part of each word, and phrases by their first word."""

    def __init__(self, listed: Mapping[str, str]) -> None:
        self.words: dict[str, str] = {}
        self.phrases: dict[str, list[tuple[tuple[str, ...], str]]] = {}
        for sign, terms in listed.items():
            for term in terms.split("|"):
                written = tuple(_tokens(term))
                for each in (written, (*written[:-1], written[-1] + "s")):
                    if sign not in "cf" and each is not written:
                        continue
                    if len(each) == 1:
                        self.words.setdefault(each[0], sign)
                    else:
                        self.phrases.setdefault(each[0], []).append((each[1:], sign))
        for phrases in self.phrases.values():
            phrases.sort(key=lambda phrase: -len(phrase[0]))


# A text without any of these parts says nothing; of the others, it needs two.
_TOPICS: Final = frozenset("cldsmiyzuvwfFOpPUgSCoejqt%~")
_TOPICS_TOGETHER: Final = (frozenset("b"), frozenset("h"))
_AGES: Final = frozenset("an")
_OPENING: Final = frozenset("%")
_PERSONS: Final = frozenset("IYETRD")


_FREQUENT: Final = frozenset(
    _tokens(
        "the with have can make get without into take left time right want come were could"
        " making every think having again more like that this from when your what will would"
        " about been being who how all and for not out off going done feel keep life had has"
        " was are one two in on to of my at up it me i am do did a an is be by she he sentence"
        " double multiple anything weight another binary problem control memory"
        " test end self no or as so us we"
    )
)


class _Keys:
    """Words by which texts without a statement are told at once."""

    def __init__(self, parts: _Parts) -> None:
        self.persons = self._of(parts, _PERSONS) | {"year", "yo"}
        self.topics = self._of(parts, _TOPICS)
        self.together = tuple(self._of(parts, signs) for signs in _TOPICS_TOGETHER)
        self.ages = self._of(parts, _AGES)
        #: All words of phrases.
        self.in_phrases = frozenset(
            word
            for first, phrases in parts.phrases.items()
            for rest, _ in phrases
            for word in (first, *rest)
        )
        #: Words of new text, or soon before it, of which a statement needs one.
        self.turning = Words(lambda lower: self.may_turn(_WORD.findall(lower)), within=_NEAR_CHARS)
        #: Anybody in all of a text.
        self.anybody = Words(
            lambda lower: not self.persons.isdisjoint(_WORD.findall(lower)), within=EVERYWHERE
        )
        #: Words that any word may follow in a statement.
        self.opening = tuple(self._of(parts, _OPENING))

    def may_turn(self, words: Sequence[str]) -> bool:
        """Return whether a statement may be complete with these words."""
        if not (self.topics.isdisjoint(words) and self.ages.isdisjoint(words)):
            return True
        if not all(each.isdisjoint(words) for each in self.together):
            return True
        long = [word for word in words if len(word) > _SHORT]
        return any(word.endswith(_ENDINGS) for word in long)

    @staticmethod
    def _of(parts: _Parts, signs: frozenset[str]) -> frozenset[str]:
        words = {word for word, sign in parts.words.items() if signs.intersection(sign)}
        for first, phrases in parts.phrases.items():
            # The rarest word of a phrase is best; the longest is a good guess.
            words |= {
                max(
                    (word for word in (first, *rest) if word.isalnum()),
                    key=lambda word: (word not in _FREQUENT, len(word)),
                )
                for rest, sign in phrases
                if signs.intersection(sign)
            }
        return frozenset(words)

    def may_say(self, words: set[str]) -> bool:
        """Return whether a text of these words may hold a statement."""
        if self.persons.isdisjoint(words):
            return False
        if not self.topics.isdisjoint(words):
            return True
        if not any(each.isdisjoint(words) for each in self.together):
            return True
        if not self.ages.isdisjoint(words) and any(map(str.isdigit, words)):
            return True
        return any(len(word) > _SHORT and word.endswith(_ENDINGS) for word in words)


@functools.cache
def _parts() -> tuple[_Parts, _Keys]:
    parts = _Parts(PARTS)
    for term, signs in OTHER_LANGUAGES:
        written = tuple(_tokens(term))
        if len(written) == 1:
            parts.words.setdefault(written[0], signs)
        else:
            parts.phrases.setdefault(written[0], []).insert(0, (written[1:], signs))
    return parts, _Keys(parts)


@functools.cache
def _rules() -> tuple[tuple[str, re.Pattern[str], frozenset[str]], ...]:
    """Return the rules with the signs of which a text needs one."""
    made = []
    for label, rule in _RULES:
        needed = re.search(r"\(\?P<f>\[?([^\]\[(_{-]+)", rule)
        assert needed is not None
        first = needed[1] if rule[needed.start() + len("(?P<f>")] == "[" else needed[1][0]
        made.append((label, re.compile(_pattern(rule)), frozenset(first)))
    return tuple(made)


def _pattern(rule: str) -> str:
    return rule.replace("{who}", _WHO).replace("_{", "[^.QN]{").replace("-{", "[^.]{")


class StatementDetector:
    """Finds statements about a person that fall under special categories (GDPR, article 9 and 10).

    The span covers the statement, not the person.
    """

    name = "statement"
    labels: Sequence[str] = tuple(dict.fromkeys(label for label, _ in _RULES))

    def load(self) -> None:
        """Prepare words and rules, which takes longer than most texts."""
        _parts()
        _rules()

    def detect(self, text: str) -> Sequence[Span]:
        """Return the statements of a text."""
        return _statements(text) if _may_say(text) else []

    def detect_new(self, text: str, new_from: int) -> Sequence[Span]:
        """Return the statements of which new text is a part, and maybe others."""
        if not _changes(text, new_from, _parts()[0]):
            return []
        begin = _sentence_before(text, new_from - _REACH)
        found = _statements(text[begin:])
        if not found or not _may_say(text):
            return []
        return [replace(span, start=span.start + begin, end=span.end + begin) for span in found]

    def may_find(self, grown: Growing) -> bool:
        """Return whether new text may complete a statement: it says something, near a topic."""
        keys = _parts()[1]
        lower = _lower(grown.text[grown.start :])
        old = _TOKEN.findall(lower[: grown.new_from - grown.start])
        new = _TOKEN.findall(lower)
        same = 0
        for one, other in zip(old, new, strict=False):
            if one != other:
                break
            same += 1
        near = _lower(grown.text[max(0, grown.new_from - _PHRASE_CHARS) :])
        if (
            len(new) >= len(old)
            and all(map(_says_nothing, old[same:]))
            and all(map(_says_nothing, new[same:]))
            and not any(map(near.__contains__, keys.opening))
        ):
            return False
        # An age may have no word beside it that says so: "I am 47". It stands beside new text.
        return keys.anybody.near(grown) and (
            grown.since_digit <= _PHRASE_CHARS or keys.turning.near(grown)
        )


_ANY_WORD = 6
_ENDS = (". ", "? ", "! ", ".\n", "?\n", "!\n", "\n\n")


def _sentence_before(text: str, place: int) -> int:
    """Return the end of a sentence before a place, so that no phrase is cut; or 0."""
    place = max(0, place)
    return max(text.rfind(end, max(0, place - _REACH), place) for end in _ENDS) + 1 if place else 0


def _changes(text: str, new_from: int, parts: _Parts) -> bool:
    """Return whether new text changes signs to more than words that are no part of a statement."""
    begin = max(0, new_from - _PHRASE_CHARS)
    old = "".join(_read(_lower(text[begin:new_from]), parts)[0])
    new = "".join(_read(_lower(text[begin:]), parts)[0])
    same = next(
        (at for at, pair in enumerate(zip(old, new, strict=False)) if len(set(pair)) > 1),
        min(len(old), len(new)),
    )
    # What follows "allergic to" may be any word.
    return bool(new[same:].strip(_OTHER)) or "%" in new[-_ANY_WORD:] or len(new) < len(old)


def _may_say(text: str) -> bool:
    word = _ASCII_WORD if text.isascii() else _WORD
    return _parts()[1].may_say(set(word.findall(text.lower())))


def _statements(text: str) -> list[Span]:
    parts, _ = _parts()
    lower = _lower(text)
    signs, ends = _read(lower, parts)
    line = "".join(signs)
    present = set(line)
    found = [
        (label, *match.span("f"))
        for label, rule, needed in _rules()
        if not needed.isdisjoint(present)
        for match in rule.finditer(line)
    ]
    if not found:
        return []
    at = [match.span() for match in _TOKEN.finditer(lower)]
    # The numbers of the first and the last word of each sign.
    places = [(word, ends.get(word, word)) for word, sign in enumerate(signs) for _ in sign]
    spans = {
        Span(at[places[first][0]][0], at[places[last - 1][1]][1], label)
        for label, first, last in found
    }
    return sorted(_outermost(spans))


def _outermost(spans: set[Span]) -> Iterator[Span]:
    """Leave out findings within another of the same label."""
    reached: dict[str, int] = {}
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if span.end > reached.get(span.label, 0):
            reached[span.label] = span.end
            yield span


def _read(lower: str, parts: _Parts) -> tuple[list[str], dict[int, int]]:
    """Return the signs of each word, and the last word of each phrase by its first one.

    The sign of a phrase stands with its first word, and its other words have none.
    """
    tokens = _TOKEN.findall(lower)
    if len(ITALIAN.intersection(tokens)) > 1:
        tokens = [_OTHER if token == "i" else token for token in tokens]
    signs = list(map(_sign_of, tokens))
    ends: dict[int, int] = {}
    phrases = parts.phrases
    done = 0
    for at in [at for at, token in enumerate(tokens) if token in phrases]:
        if at >= done:
            for rest, sign in phrases[tokens[at]]:
                end = at + 1 + len(rest)
                if tuple(tokens[at + 1 : end]) == rest:
                    signs[at:end] = (sign, *("",) * len(rest))
                    ends[at] = end - 1
                    done = end
                    break
    return signs, ends


@functools.lru_cache(maxsize=20_000)
def _says_nothing(token: str) -> bool:
    """Return whether a word has no part in a statement, by itself or in a phrase."""
    return (
        _sign_of(token) == _OTHER and token not in _parts()[1].in_phrases and token not in ITALIAN
    )


@functools.lru_cache(maxsize=20_000)
def _sign_of(token: str) -> str:
    sign = _parts()[0].words.get(token)
    if sign is not None:
        return sign
    if token.isdigit():
        return _NUMBER if len(token) < 3 else _OTHER
    if token in ',:"“”':
        return _COMMA
    if len(token) > _SHORT:
        if token.endswith(_ILLNESSES):
            return "c"
        if token.endswith(_MEDICINES):
            return "d"
    return _OTHER if token[0].isalnum() or token[0] == "'" else _END
