"""Three tasks made at run time, without any download, the same for the same seed.

``code`` completes functions of Python's own standard library, ``arithmetic`` solves generated word
problems step by step, ``records`` turns a sentence into a JSON record.
"""

from __future__ import annotations

import ast
import json
import sysconfig
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from random import Random

from floe_plugins.errors import ConfigError
from flower_strategy.data.examples import Example


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_MODULES = _words(
    "_collections_abc ast base64 bisect calendar cmd codeop collections/__init__ colorsys "
    "configparser contextlib copy csv dataclasses difflib email/utils enum filecmp fileinput "
    "fnmatch fractions ftplib functools getopt gettext glob gzip heapq html/parser http/cookies "
    "imaplib inspect json/decoder json/encoder keyword linecache locale logging/__init__ "
    "mailbox mimetypes netrc numbers optparse pathlib pickle poplib pprint profile queue quopri "
    "random reprlib sched selectors shelve shlex shutil smtplib sndhdr socketserver statistics "
    "string stringprep tabnanny tarfile telnetlib tempfile textwrap timeit tokenize trace "
    "traceback types typing urllib/parse urllib/request uuid weakref webbrowser zipapp zipfile"
)
_LINES = (4, 24)


@lru_cache(maxsize=1)
def _functions() -> tuple[str, ...]:
    """Return the sources of the library's functions of 4 to 24 lines, without indentation."""
    root = Path(sysconfig.get_paths()["stdlib"])
    sources = []
    for module in _MODULES:
        path = root / f"{module}.py"
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef) or node.decorator_list:
                continue
            lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
            if _LINES[0] <= len(lines) <= _LINES[1]:
                sources.append("\n".join(line[node.col_offset :] for line in lines))
    return tuple(sources)


def _code(random: Random) -> Iterator[Example]:
    sources = list(_functions())
    random.shuffle(sources)
    while True:
        for source in sources:
            lines = source.split("\n")
            head = max(1, len(lines) // 3)
            yield Example("\n".join(lines[:head]), "\n" + "\n".join(lines[head:]))


_PEOPLE = _words(
    "Ada Bruno Chen Dalia Emil Farah Goran Hana Ivan Jonas Kemal Lena Mina Noor Omar Priya"
)
_THINGS = _words(
    "apples books candles coins eggs flowers marbles pencils shells stamps tickets tiles"
)


def _arithmetic(random: Random) -> Iterator[Example]:
    while True:
        who, other = random.sample(_PEOPLE, 2)
        thing = random.choice(_THINGS)
        first, second, third = (random.randint(2, 40) for _ in range(3))
        kind = random.randrange(4)
        if kind == 0:
            total = first + second
            left = total - min(third, total)
            yield Example(
                f"Problem: {who} has {first} {thing} and buys {second} more. {who} gives "
                f"{min(third, total)} to {other}. How many {thing} does {who} have now?\nSolution:",
                f" {first} + {second} = {total}. {total} - {min(third, total)} = {left}. "
                f"The answer is {left}.",
            )
        elif kind == 1:
            boxes, each = first % 11 + 2, second % 11 + 2
            total = boxes * each
            yield Example(
                f"Problem: {who} fills {boxes} boxes with {each} {thing} each. {other} brings "
                f"{third} more. How many {thing} are there?\nSolution:",
                f" {boxes} * {each} = {total}. {total} + {third} = {total + third}. "
                f"The answer is {total + third}.",
            )
        elif kind == 2:
            people, each = first % 8 + 2, second % 11 + 2
            total = people * each
            yield Example(
                f"Problem: {who} shares {total} {thing} equally among {people} friends. How many "
                f"{thing} does each friend get?\nSolution:",
                f" {total} / {people} = {each}. The answer is {each}.",
            )
        else:
            yield Example(
                f"Problem: {who} has {first} {thing}. {other} has {second} more than {who}. How "
                f"many {thing} do they have together?\nSolution:",
                f" {first} + {second} = {first + second}. {first} + {first + second} = "
                f"{2 * first + second}. The answer is {2 * first + second}.",
            )


_SURNAMES = _words(
    "Almeida Berger Castillo Dubois Eriksen Fontana Gruber Haddad Ito Jansen Kowalski Lopez"
)
_JOBS = _words("architect baker carpenter dentist electrician florist gardener nurse pilot teacher")
_CITIES = _words("Bergen Cusco Dakar Graz Hanoi Izmir Lima Lyon Nairobi Osaka Porto Quito Tallinn")
_SENTENCES = (
    "{name}, {age}, works as {article} {job} in {city}.",
    "In {city} lives {name}, {article} {job} who is {age} years old.",
    "{name} moved to {city} at {age} and became {article} {job}.",
    "At {age}, {name} is still {article} {job} in {city}.",
)


def _records(random: Random) -> Iterator[Example]:
    while True:
        job = random.choice(_JOBS)
        row = {
            "name": f"{random.choice(_PEOPLE)} {random.choice(_SURNAMES)}",
            "age": random.randint(19, 79),
            "job": job,
            "city": random.choice(_CITIES),
        }
        article = "an" if job[0] in "aeiou" else "a"
        sentence = random.choice(_SENTENCES).format(article=article, **row)
        yield Example(f"Text: {sentence}\nRecord:", f" {json.dumps(row)}")


TASKS: dict[str, Callable[[Random], Iterator[Example]]] = {
    "code": _code,
    "arithmetic": _arithmetic,
    "records": _records,
}
"""Task name -> endless source of examples, given a seeded generator."""


def make_examples(task: str, *, count: int, seed: int) -> list[Example]:
    """Return `count` examples of a task, none twice while the source has others.

    Raises
    ------
    ConfigError
        There is no such task.
    """
    if task not in TASKS:
        raise ConfigError(
            f"Run configuration tasks has {task!r}, which must be one of {', '.join(TASKS)}."
        )
    source = TASKS[task](Random(f"{task}-{seed}"))
    seen: dict[Example, None] = {}
    for _ in range(50 * count):
        seen.setdefault(next(source))
        if len(seen) == count:
            break
    return list(seen)
