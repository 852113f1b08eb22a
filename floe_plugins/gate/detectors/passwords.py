"""Passwords after words for them: in prose, in forms, in files of settings, programs and markup."""

import re
from collections.abc import Iterator

from floe_plugins.gate.detector import Span
from floe_plugins.gate.detectors.placeholders import is_generated, is_placeholder
from floe_plugins.gate.matching import in_lower, matches_at

_LONG = (
    r"password|passwort|passwd|passphrase|passcode|kennwort|contrase[nñ]a|mot\ de\ passe|wachtwoord"
    r"|senha|пароль|密码|パスワード"
)
WORDS = (
    *("pass", "pwd", "pw", "kennw", "contrase", "mot de", "mdp", "wachtw", "senha", "clave"),
    *("пароль", "密码", "パスワード"),
)
# Where an assignment may begin in a text of lower case.
_STARTS = re.compile(
    rf"(?={_LONG}|(?:(?<![a-z])|(?<=_))(?:pass|pwd|pw|mdp|clave))".replace(r"\ ", "[ ]")
)
_ASSIGNED = re.compile(
    rf"""(?:(?P<long>{_LONG})|(?P<before>(?<![A-Za-z])|(?<=_))(?P<short>pass|pwd|pw|mdp|clave))
    (?:s|_?\d)?(?![A-Za-z])
    (?:[\"']?\]?[ \t]{{0,3}}(?P<sign>=>|:=|[=:](?!=))(?P<space>[ \t]{{0,3}})(?:[rbfu](?=["']))?
      | [ ](?:(?:for|to|of)[ ][\w. -]{{1,30}}?[ ])?(?:is|was|ist|lautet|es|est)[ :]{{1,2}})
    (?:(?P<quote>[\"'`])(?P<quoted>[^\"'`\n]{{3,128}})(?P=quote)
      | [\"'`]?(?P<value>[^\s\"'`<>]{{4,128}}))""",
    re.IGNORECASE | re.VERBOSE,
)
_ELEMENT = re.compile(
    rf"""<[\w:.-]{{0,40}}?(?:(?P<key>token|secret|api_?-?key|access_?key|auth_?key)
      |{_LONG}|(?<![A-Za-z])(?:pwd|pass|pw))[\w.-]{{0,16}}(?:[ ][^<>]{{0,120}})?>
      \s{{0,40}}(?:<!\[CDATA\[)?(?P<value>[^<>\s][^<>\n]{{2,511}}?)\s{{0,40}}(?:\]\]>\s?)?</
    | (?:name|key|id|type)=["'][\w.-]{{0,40}}?(?:(?P<key_of>token|secret|api_?-?key|access_?key)
      |{_LONG}|pwd)[\w.-]{{0,16}}["'](?:[ ][^<>]{{0,80}}?)?
      (?:[ ]value=["'](?P<of_attribute>[^"'<>\n]{{3,512}})["']
        |>(?P<of_entry>[^<>\n]{{3,512}})</(?:entry|property|string|setting|param|variable|item|prop))""",
    re.IGNORECASE | re.VERBOSE,
)
# A password may hold "@" and ":"; the last "@" before the path ends it.
_IN_URL = re.compile(
    r"(?<=://)(?P<user>[^\s/:@\"'<>]{0,256}+):(?P<value>[^\s/\"'<>?#]{1,256})(?=@[\w\[])"
)

# Values in the place of a password that are not passwords.
_NO_PASSWORD = re.compile(
    r"^(?:\*+|x{3,}|\.+|\$\w*|%\w+%?|your\w*|my\w*|not|none|null|nil|undefined|true|false|wrong|incorrect"
    r"|invalid|correct|expired|required|weak|strong|too|very|never|always|also|only|stored|hashed|encrypted"
    r"|missing|empty|changed|reset|input|getpass\S*|os\.\S*|env\S*|str|string|self\.\S*|passw\S*|pass|pwd"
    r"|secret|changeme|example|test|that|this|the|what|when|where|being|been|used|case|case-sensitive"
    r"|optional|long|short|secure|safe|valid|still|now|rejected|accepted|forgotten|lost|known|needed"
    r"|protected|something|set|minimum|at|must|should|enter|please|choose|min\S*|max\S*)[.!?:]*$",
    re.IGNORECASE,
)
# The text of a form or of an error, and rules of a validator.
_MESSAGE = re.compile(
    r"\b(?:passwords?|passwort|contraseñas?|requir\w*|enter|invalid|incorrect|wrong|must|should|please"
    r"|characters?|least|match\w*|field|reset|forg[eo]t\w*|confirm\w*|user(?:name)?|login|email|minimum|length"
    r"|bitte|veuillez|introduzca|string|nullable|hidden)\b|^[#.][A-Za-z][\w-]*$|^\[?[\w-]+=",
    re.IGNORECASE,
)
# A value of a program: a call, an index, an attribute of a known object, a name with such a word.
_CALL = re.compile(r"[A-Za-z_$][\w$]*(?:(?:\?\.|\.|->|::)[\w$]+)*!?[(\[{]|new\b|await\b|&?\w+->")
_ATTRIBUTE = re.compile(
    r"(?:[a-z_]*(?:request|req|self|this|os|env|process|config|conf|cfg|args|params|user|users|body|data"
    r"|form|settings|context|ctx|event|app|creds?|credentials|account|options|opts|props|state|values|fields"
    r"|models?|db|types?|schema|input|secrets|random|crypto|bcrypt|hashlib|session|query|payload|item|row"
    r"|obj|object|res|response|result|json|login|admin|auth|client|server|var|local|module|data_source|dto"
    r"|z|yup|joi|sa|st|np|string|prisma|faker|e|u|c|p|t|m)"
    r"|[a-z]+[A-Z]\w*)(?:\?\.|\.)[A-Za-z_$][\w$.]*",
)
_PIECES = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_CODE_WORDS_LIST = (
    "pass password passwd pwd pw user username input hash hashed new old get value val text"
    " confirm raw plain form data str string default arg args param params req request config"
    " field credentials creds varchar char bytes any object bool boolean int integer type column"
    " document field self this const var let none null undefined return await async func"
    " function key token secret env login number optional encoded encrypted decrypted salt"
    " generated random current stored entered provided submitted given nvarchar blob mixed"
    " repeat verify check length min max email name id"
)
_CODE_WORDS = frozenset(_CODE_WORDS_LIST.split())
_STOPS_LIST = (
    "and or for to please is at the on then but user username my i in with as thanks thank you"
    " it that this login email host port not was if when so be are we he she they of from by"
    " your can will use using here url server name which while now"
)
_STOPS = frozenset(_STOPS_LIST.split())
_PHRASE = re.compile(r"[ ](?P<word>[A-Za-zÀ-ÿ0-9]{2,24})(?=[ .,;!?)\n]|\Z)")
_LONGEST_PHRASE = 7
# The beginning of a name: DB_PASS and user_pass, but not first_pass.
_OWNER = re.compile(
    r"(?:[A-Z\d]|\b(?:db|user|my|mail|smtp|root|admin|sudo|ftp|ssh|mysql|pg|redis|login|auth))_\Z"
)
_OWNER_CHARS = 12
_NEXT_FIELD = re.compile(r"[,;&|](?=[\w-]{2,32}[=:])")
_CLOSING = ".,;:)]}"
_TRAILING = _CLOSING + "!?"


def passwords(text: str, lower: str) -> Iterator[Span]:
    """Yield the passwords of a text; keys of markup have the label of keys."""
    if "://" in text:
        yield from _in_urls(text)
    named = any(word in lower for word in WORDS)
    if named:
        plain = in_lower(text)
        assigned = (
            _ASSIGNED.finditer(text)
            if plain is None
            else matches_at(_STARTS, _ASSIGNED, text, there=plain)
        )
        for match in assigned:
            span = _assigned(match)
            if span is not None:
                yield Span(*span, "PASSWORD")
    if ("</" in text or "value=" in text) and (
        named or "token" in lower or "secret" in lower or "key" in lower
    ):
        yield from _in_markup(text)


def _in_urls(text: str) -> Iterator[Span]:
    for match in _IN_URL.finditer(text):
        user, value = match["user"], match["value"]
        # What programs are delivered with, such as postgres:postgres, is known to all.
        if value != user and not is_placeholder(value) and not _NO_PASSWORD.match(value):
            yield Span(match.start(), match.end(), "PASSWORD")


def _in_markup(text: str) -> Iterator[Span]:
    for match in _ELEMENT.finditer(text):
        group = next(name for name in ("value", "of_attribute", "of_entry") if match[name])
        value = match[group].strip()
        if is_placeholder(value) or _MESSAGE.search(value) or _NO_PASSWORD.match(value):
            continue
        if match["key"] or match["key_of"]:
            if is_generated(value, named=True):
                yield Span(match.start(group), match.start(group) + len(value), "API_KEY")
        elif len(value.split()) <= _LONGEST_PHRASE:
            yield Span(match.start(group), match.start(group) + len(value), "PASSWORD")


def _assigned(match: re.Match[str]) -> tuple[int, int] | None:
    """Return where the password of an assignment is, or None if there is none."""
    # A short word such as "pass" has other meanings, unless it ends a name such as DB_PASS.
    text, start = match.string, match.start()
    weak = bool(match["short"]) and not _OWNER.search(text, max(0, start - _OWNER_CHARS), start)
    if match["quoted"] is not None:
        value = match["quoted"]
        if is_placeholder(value) or _NO_PASSWORD.match(value) or _MESSAGE.search(value):
            return None
        if value.startswith("-") or not value.strip() or (weak and not _is_mixed(value)):
            return None
        return match.span("quoted")
    begin = match.start("value")
    value = _NEXT_FIELD.split(match["value"], maxsplit=1)[0]
    if _is_expression(value, text[begin + len(value) : begin + len(value) + 1]):
        return None
    # "!" ends a password more often than a sentence with one.
    stripped = value.rstrip(_TRAILING if value.rstrip(_TRAILING).isalpha() else _CLOSING)
    if not stripped or len(stripped) < 3:
        return None
    if (
        _NO_PASSWORD.match(stripped)
        or is_placeholder(stripped)
        or (weak and not _is_mixed(stripped))
    ):
        return None
    if stripped.replace("_", "").isalpha() and (not match["sign"] or _is_a_name(stripped)):
        # Without a sign a word of letters may be any word of the sentence.
        return None
    end = begin + len(stripped)
    # In a shell, "PASSWORD=word" ends at the space.
    if stripped == match["value"] and (match["sign"] == ":" or match["space"]):
        phrase = _end_of_phrase(text, end, alone=stripped.isalpha())
        if phrase is None:
            return None
        end = phrase
    return begin, end


def _end_of_phrase(text: str, end: int, *, alone: bool) -> int | None:
    """Return where the words end that continue a password; None if they are a sentence.

    Parameters
    ----------
    alone : bool
        Whether the first word has letters only, so that a sentence may have begun.
    """
    place = end
    for _ in range(_LONGEST_PHRASE):
        match = _PHRASE.match(text, place)
        if match is None:
            return place
        if match["word"].lower() in _STOPS or _MESSAGE.search(match["word"]):
            return None if alone else place
        place = match.end()
    # Longer than any pass phrase.
    return None if alone else end


def _is_mixed(value: str) -> bool:
    letters = any(map(str.isalpha, value))
    return len(value) >= 5 and letters and any(map(str.isdigit, value)) and "/" not in value


def _is_expression(value: str, following: str) -> bool:
    return bool(
        _CALL.match(value + following)
        or _ATTRIBUTE.fullmatch(value.rstrip(_TRAILING))
        or value[:1] in "([{&@#"
    )


def _is_a_name(value: str) -> bool:
    return any(piece.lower() in _CODE_WORDS for piece in _PIECES.findall(value))
