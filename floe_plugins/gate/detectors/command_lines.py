"""Passwords and tokens in options of command lines and in headers of HTTP."""

import base64
import binascii
import re
from collections.abc import Iterator

from floe_plugins.gate.detector import Span
from floe_plugins.gate.detectors.placeholders import is_generated, is_placeholder, is_wordy

# "-u user:password", "-p password" and the like; what the short ones mean depends on the program.
_OPTION = re.compile(
    r"""(?<=\s)(?:
      (?P<pair>-u|-U|--user|--proxy-user|--creds?)[ =]?["']?(?P<user>[^\s:%"'=]{1,64})[:%]
        (?P<of_pair>[^\s"'`]{2,128})
    | (?P<short>-p|-P|-pw|-a|-w)(?P<gap>[ ]?)["']?(?P<of_short>[^\s"'`-][^\s"'`]{2,127})
    | -pass(?:in|out)[ ]["']?pass:(?P<of_pass>[^\s"'`]{2,128})
    | --(?:[\w-]{0,24}-)?
      (?P<word>pass(?:word|wd|phrase)?|pwd|token|secret|(?:api|access|secret|auth)-?key)
      (?P<by>[ =])(?P<quote>["']?)(?P<of_word>[^\s"'`-][^\s"'`]{3,255})
    )""",
    re.VERBOSE,
)
# Programs to which a short option gives a password, and whether it follows without a space.
_PROGRAMS = re.compile(
    r"\b(?:(?P<glued>mysql\w*|mariadb[\w-]*|mycli|7z[ar]?)"
    r"|(?P<spaced>sshpass|(?:docker|podman|registry|az|oc|cf)[ ]login|mongo\w*|ldap\w+|redis-cli"
    r"|plink|pscp|unzip|zip|smbclient|psexec|rabbitmqadmin|sqlcmd|bcp|xfreerdp|winexe))\b"
)
_NO_PASSWORD_PAIR = re.compile(r"\b(?:docker|podman|chown|useradd|usermod|su|kubectl|install)\b")
_LINE_CHARS = 200
_NEXT_COMMAND = re.compile(r"[;|&]|(?<!\\)\n")

# Names that stand in a password's place in documentation.
_NAMES = ("password", "passwd", "pass", "pwd", "secret", "token", "changeme", "example", "string")

_HEADER = re.compile(
    r"\b(?P<scheme>basic|bearer|token|apikey)[ ]{1,3}(?P<value>[A-Za-z0-9+/=_.~-]{6,1024}+)",
    re.IGNORECASE,
)
_AUTHORIZATION = re.compile(r"authorization[\"']?\s{0,3}[:=,]\s{0,3}[\"']?\Z", re.IGNORECASE)
_AUTHORIZATION_CHARS = 24


def options(text: str) -> Iterator[Span]:
    """Yield the passwords and tokens that options of command lines have."""
    if " -" not in text:
        return
    for match in _OPTION.finditer(text):
        line = (max(0, match.start() - _LINE_CHARS), match.start())
        if match["pair"]:
            value, group = match["of_pair"], "of_pair"
            counts = value != match["user"] and not value.isdigit() and _is_secret(value)
            if counts and not _NO_PASSWORD_PAIR.search(text, *line):
                yield Span(match.start("user"), _end(match, group), "PASSWORD")
        elif match["short"]:
            if _takes_password(match) and _is_secret(match["of_short"]):
                yield Span(match.start("of_short"), _end(match, "of_short"), "PASSWORD")
        elif match["of_pass"]:
            if _is_secret(match["of_pass"]):
                yield Span(match.start("of_pass"), _end(match, "of_pass"), "PASSWORD")
        elif _is_option_value(match):
            label = "PASSWORD" if match["word"].startswith("p") else "API_KEY"
            yield Span(match.start("of_word"), _end(match, "of_word"), label)


def _takes_password(match: re.Match[str]) -> bool:
    """Return whether the nearest program before a short option takes a password by it."""
    text, start = match.string, match.start()
    programs = list(_PROGRAMS.finditer(text, max(0, start - _LINE_CHARS), start))
    if not programs or _NEXT_COMMAND.search(text, programs[-1].end(), start):
        return False
    if programs[-1]["glued"]:
        return not match["gap"] and match["short"] == "-p"
    return bool(match["gap"]) or programs[-1][0] == "sshpass"


def headers(text: str, lower: str) -> Iterator[Span]:
    """Yield the credentials of the header `Authorization`, also where only its scheme is named."""
    if not ("basic " in lower or "bearer " in lower or "authorization" in lower):
        return
    for match in _HEADER.finditer(text):
        value, start = match["value"], match.start()
        named = _AUTHORIZATION.search(text, max(0, start - _AUTHORIZATION_CHARS), start)
        if is_placeholder(value):
            continue
        if match["scheme"].lower() == "basic":
            if _holds_a_pair(value):
                yield Span(*match.span("value"), "PASSWORD")
        elif named or match["scheme"].lower() == "bearer":
            mixed = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
            if is_generated(value, named=True) or (mixed and named and not is_wordy(value)):
                yield Span(*match.span("value"), "API_KEY")


def _holds_a_pair(value: str) -> bool:
    try:
        plain = base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        return False
    return b":" in plain and all(32 <= byte < 127 for byte in plain)


def _is_secret(value: str) -> bool:
    return not is_placeholder(value) and value.lower() not in _NAMES


def _is_option_value(match: re.Match[str]) -> bool:
    value = match["of_word"]
    if not _is_secret(value):
        return False
    if not match["word"].startswith("p"):
        return is_generated(value, named=True)
    # "the --password option is"
    return match["by"] == "=" or bool(match["quote"]) or not value.rstrip(".,:;").isalpha()


def _end(match: re.Match[str], group: str) -> int:
    """Return where a value ends, without the punctuation of a sentence."""
    return match.start(group) + len(match[group].rstrip(".,;)")) or match.end(group)
