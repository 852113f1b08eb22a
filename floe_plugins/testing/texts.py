"""Texts that try detectors: ordinary ones, odd ones, and ones that make slow code slow."""

from __future__ import annotations

import random
from collections.abc import Iterator

#: Something of most kinds that detectors look for; not real.
PASSAGES = (
    "Write to joe.bloggs@example.org or call +44 20 7946 0018 before Friday, and quote 4111 1111 "
    "1111 1111; the account is GB82 WEST 1234 5698 7654 32.",
    "My name is Alice Fortescue, I live at 12 Orchard Lane, Cambridge CB2 1TN, and I was diagnosed "
    "with diabetes in 2019. My SSN is 536-90-4399.",
    "ssh root@192.168.17.4 with password=hunter2!Tr0ub4dor and AKIAIOSFODNN7EXAMPLE, then open "
    "https://admin:s3cret@intranet.example.com/users/17.",
    "Water boils at 100 degrees. The quick brown fox jumps over the lazy dog, again and again.",
)

#: What detectors are seldom tried on.
ODD = (
    "",
    " ",
    "\n\n\n",
    "\x00",
    "\x00joe@example.org\x00",
    "\ufeff\u200b\u200d\u00ad",
    "\U0010ffff\U0001f600\U0001f468\u200d\U0001f469",
    "e\u0301" * 20,
    "\u202ejoe\u202c",
    "٤١١١ ١١١١ ١١١١ ١١١١",
    "４１１１１１１１１１１１１１１１",
    "((((((((((",
    "\\" * 30,
    "%s %d {} {0} %(name)s",
    "<script>alert('x')</script>",
    "a" * 300,
    "1" * 300,
    "@" * 50,
    "." * 50,
    "\t\r\v\f\u2028\u2029",
)

_PIECES = (
    *"aZ09 @.-_+:/\\()[]{}<>#%&'\"\n\té你٣\u200b\u00ad😀\x00",
    "joe",
    "@example.org",
    "4111",
    "GB82",
    "192.168.",
    "password=",
    "+44 ",
    "-----BEGIN ",
)

#: Pieces whose repetition has made patterns backtrack.
_REPEATED = (
    "1",
    "a",
    "A1",
    "1 ",
    "1-",
    "a@",
    "@a.",
    "a.",
    ".",
    "-",
    " ",
    "\n",
    "(",
    "[{(",
    "https://",
    "=",
    "GB82 WEST ",
    "Mr. ",
    "é",
    "\u200b",
)


def random_texts(count: int, *, seed: int = 0) -> Iterator[str]:
    """Yield texts of random pieces, the same for the same seed."""
    rng = random.Random(seed)
    for _ in range(count):
        yield "".join(rng.choice(_PIECES) for _ in range(rng.randint(1, 80)))


def long_texts(length: int, examples: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield (what it repeats, text), every text `length` characters long."""
    for piece in (*_REPEATED, *examples, *PASSAGES):
        if piece:
            yield piece, (piece * (length // len(piece) + 1))[:length]
