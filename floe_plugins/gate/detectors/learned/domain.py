"""What the learned detector was trained for: says of a text where it should rather be silent."""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Iterable, Sequence
from typing import Final

TRAINED: Final = ("en", "de", "fr", "es", "it")
"""The languages that training texts are written in."""

# Frequent words that tell languages apart. A word may stand for several.
_FUNCTION_WORDS = {
    "en": "the of and to is that it for was with as his they at be this have from or had by but"
    " what were we when your can said there use each which she how their if will other about many"
    " then them these so some would like him into has look more write see number way could people"
    " my than i you not are on an me do he in a who does am please his her our us where why don"
    " did been",
    "de": "der die das und ist nicht ein eine einen einem einer eines zu den dem des mit auf für"
    " von im sich als auch wie ich du er sie wir ihr sind hat wird oder aber bei nach aus über"
    " zwischen kann wenn werden mein meine dein was warum welche schreibe eure zum zur dass gibt"
    " es bitte man am um noch nur beim vom diese dieser dieses unter haben sein war durch in wurde"
    " mich mir",
    "fr": "le la les un une des et est que qui dans pour pas sur avec ce cette il elle nous vous"
    " je tu au aux du de en ne plus par son sa ses mon ma mes ton votre notre sont mais ou où quel"
    " quelle comment pourquoi ou être avoir fait y à d l qu c j s n m se leur entre peux pouvez"
    " est-ce écris",
    "es": "el la los las un una unos y es que en de del al por para con no se su sus lo como más"
    " pero mi tu yo este esta esto son fue ha si o cuál qué cómo muy ya sobre entre hay a le me te"
    " nos cuando donde dónde cuántos puedes quiero escribe crea tengo está eres uno nuevo es",
    "it": "il lo la i gli le un uno una e è di che in non per con del della dei delle al alla da"
    " dal nel nella sono si su come più ma o anche questo questa mi ti ci suo sua mio mia ho ha"
    " hai cosa perché quale quanto scrivi puoi se l d dell nell sul sulla tra fra essere chi ai a"
    " tuo ed dove",
    "pt": "o os um uma e é que não para com do da dos das no na nos nas em se mas mais por seu sua"
    " ao você eu meu minha como são foi está ou qual isso à também já olá moro nome",
    "nl": "de het een en van is dat niet te zijn op voor met aan er ook als maar om hij zij je ik"
    " mijn wat hoe waarom bij uit nog wel naar dan kan wordt door deze dit heb heeft ben jij wij"
    " in",
    "sv": "och det att en som är på för med av till den inte om jag du vi har var ett hur vad kan"
    " men så från ska min hon han eller också",
    "da": "og det at en er på for med af til den ikke jeg du vi har var et hvordan hvad kan men så"
    " fra skal min hun han eller også",
    "pl": "i w na z do nie się że to jest o jak po co dla od za czy ale są przez mój moja jestem"
    " tak który która",
    "cs": "a se na je v že to s z do jsem jak co pro ale jako od po být jsou nebo který mám",
    "tr": "ve bir bu için ile ne mi da de çok ben sen nasıl olan olarak var daha gibi ama benim",
    "fi": "ja on ei se että en hän oli mitä miten kun niin mutta myös tai ovat minä minun olen",
    "ro": "și nu este în la cu pe de un o ce să din care pentru mai sunt cum eu meu dar sau",
    "hu": "és az egy nem hogy van is ez mi de meg csak már mint vagy én lesz milyen hogyan",
    "id": "yang dan di ini itu dengan untuk tidak dari dalam saya akan pada ke bagaimana apa"
    " adalah",
    "el": "και το η ο να του της είναι με για που δεν στο τα μου σε από τι πώς θα",
    "ru": "и в не на что я с как это по но он мы вы к у за из меня мне для от так",
    "uk": "і в не на що я з як це по але він ми ви до у за із мене мені для від так та",
    "bg": "и в не на че аз с как това по но той ние вие за от ми се да е са",
    "ar": "في من على أن إلى هذا ما هو هل كيف لا مع عن التي هي أنا كان",
    "he": "של את על הוא לא זה אני מה עם היא כי איך יש אם גם",
    "hi": "के में है की को से का और एक मैं क्या यह पर हैं ने नहीं",
    "ja": "の は を に が で と も た し て ま す",
    "zh": "的 是 在 我 了 不 有 一 这 你 吗 请 和 个 们",
    "ko": "은 는 이 가 그리고 저는 나는 수 있는 있습니다 어떻게 하는 것 대한 합니다",
    "vi": "của là và có không một cho được người trong với các này những đã tôi làm như",
}


_LANGUAGES = tuple(_FUNCTION_WORDS)
# A counter of 16 bits for each language, so that one sum counts for all of them.
_COUNTERS = struct.Struct(f"<{len(_LANGUAGES)}H")


def _by_word() -> dict[str, int]:
    found: dict[str, int] = {}
    for number, words in enumerate(_FUNCTION_WORDS.values()):
        for word in dict.fromkeys(words.split()):
            found[word] = found.get(word, 0) + (1 << 16 * number)
    return found


_BY_WORD = _by_word()
# So many function words of another language, and so many times as many as of English, tell.
_LEAST, _LEAST_UNTRAINED, _TIMES = 2, 3, 1.3
# The language of a long text shows in its first words.
SAMPLE = 300
# So many letters of another alphabet are more than a name or an address.
_ALIEN_LETTERS = 60
# Letters of other alphabets than the Latin one.
_OTHER_LETTERS = re.compile(r"[\u0370-\u1dff\u2c00-\ud7ff\uf900-\ufdff\ufe70-\ufeff]")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]")


def language(words: Sequence[str], *, default: str = "en") -> str:
    """Return the language of some words, by its function words.

    Parameters
    ----------
    words : sequence of str
        As `features.tokens` gives them.
    default : str, optional
        The answer if the words say nothing.

    Returns
    -------
    str
        An ISO 639-1 code; ``""`` for a text mostly in another than the Latin alphabet.
    """
    total = counted(words[:SAMPLE])
    if not total:
        return default if _is_latin(words) else ""
    return spoken(total) or (default if _is_latin(words) else "")


def counted(words: Iterable[str]) -> int:
    """Return how many function words of each language some words have, in one number to add up."""
    return sum(filter(None, map(_BY_WORD.get, map(str.lower, words))))


@functools.lru_cache(maxsize=4096)
def spoken(total: int) -> str:
    """Return the language of so many function words of each; empty if they say nothing."""
    counts = _COUNTERS.unpack(total.to_bytes(_COUNTERS.size, "little"))
    best = max(counts)
    which = counts.index(best)
    least = _LEAST if which < len(TRAINED) else _LEAST_UNTRAINED
    if best < least or best <= counts[0] * _TIMES:
        return "en" if counts[0] else ""
    return _LANGUAGES[which]


def _is_latin(words: Sequence[str]) -> bool:
    text = "".join(words)
    if text.isascii():
        return True
    others = len(_OTHER_LETTERS.findall(text))
    return others < _ALIEN_LETTERS or others <= len(_LATIN.findall(text))


# Signs and words that programs have and prose does not.
_CODE = re.compile(
    r"""^\s*(?:
        (?:def|class|elif|except|import|from\ [\w.]+\ import|package|return|struct|enum|func|fn|let
          |const|var|public|private|protected|static|void|int|float|double|bool|async|await|assert
          |yield|lambda|raise|throw|namespace|template|typedef|elseif|endif|fi|esac|done|echo|export
          |sudo|SELECT|INSERT|UPDATE|DELETE|CREATE|DROP|ALTER)\b(?![^\n]*[.?!]\s*$)(?=[^\n]*[(){}\[\]=;:<>*"'_/\\-]|\s*$)
        |(?:if|for|while|with|else|try|switch|do)\b[^\n]*(?:[:{]\s*$|[=!<>]=|\(\w+\))
        |[#]include|@\w+\s*(?:\(|$)|[$>]{1,3}\ \w|</?\w+[^\n]*>|[{}()\[\];,]+\s*$|//|/\*|\#!
      )
    |[;{]\s*$|=>|->|::|==|!=|&&|\|\||\+=|\+\+|:=|\w\(\)|\b\w+\.\w+\(|\w\[\w*[:+\-\]]|</\w+>
    |\b[\w.]+\s=\s[\w"'(\[{-]|\b[a-z_]\w*\([\w."'\[]+(?:,\s?[\w."'\[\]*+-]+)*\)|\w_\w+\s*[(=\[.]|\\\w+\{
    |^\s+[\w.]+\s*=|\blambda\ \w+:|\brange\(|\$\{|%[sd]\b
    """,
    re.VERBOSE,
)
_IMPORT = re.compile(r"\s*(?:import|from [\w.]+ import) [a-z_][\w., ]*")
_SIGN = re.compile(r"[(){}\[\]=;<>+*/\\_^|&%$#\"]")
_FEWEST = 2
# A fifth of signs: no prose has so many.
_SIGNS = 0.2
_COMMENT = re.compile(r"#\s|//|/\*|--\s|<!--")
# What looks like code by its marks but holds data about things or persons.
_DATA = re.compile(
    r"""^\s*[\[{]*\s*["']?[A-Za-z][\w -]{1,30}["']?\s*:\s*["'\w]|^\s*<(\w+)>[^<>]+</\1>\s*$"""
)


def is_code(line: str) -> bool:
    """Return whether a line looks like one of a program, and not like a line of data."""
    # Prose of the usual kind needs no closer look.
    if len(_SIGN.findall(line)) < _FEWEST and not line.endswith((":", ";", "{", "}")):
        return _IMPORT.fullmatch(line) is not None
    if _CODE.search(line):
        return not _DATA.match(line) or line.rstrip().endswith((";", ":", "{"))
    body = "".join(line.split())
    return (
        len(body) > 5 and len(_SIGN.findall(body)) >= _SIGNS * len(body) and not _DATA.match(line)
    )


def comment_start(line: str) -> int:
    """Return where the comment of a line of code begins; the line's length if it has none."""
    found = _COMMENT.search(line)
    return found.end() if found else len(line)


# Hashes, identifiers, versions, paths and names of a program: letters joined with digits or signs.
_MACHINE = re.compile(
    r"""(?=[^\s]*\d)(?:[0-9A-Fa-f]{7,}|[0-9A-Fa-f]{4,}(?:-[0-9A-Fa-f]{2,})+)
    |\w*[a-z]\w*\d\w*|\w+[_=@#\\|$~^*+]\w|\w+\(\w|://|\w+\.\w+\.\w|(?:[\w.-]+/){2,}|\b[a-z]+[A-Z]\w*
    |[a-z]+-[a-z]+-\d""",
    re.VERBOSE,
)


def is_machine(word: str) -> bool:
    """Return whether a run of characters without spaces was made for machines."""
    return _MACHINE.search(word) is not None
