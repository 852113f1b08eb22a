"""What is in the requests that left: whose prompt, and which private spans."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from floe_plugins.errors import FloeError
from integration_tests.benchmarks.gate.data import Prompt
from integration_tests.benchmarks.privacy.relay import Request

Decode = Callable[[Sequence[int]], bytes]


class StrayTextError(FloeError):
    """A text left that is of none of the prompts: nothing could be said of what was in it."""


@dataclass(frozen=True)
class Left:
    """What left of some prompts.

    Attributes
    ----------
    requests, sent_bytes : int
        All of them, heads included.
    prompts : frozenset of int
        Indices of the prompts of which any text left.
    spans : Counter of str
        Labelled spans whose text stands in what left of their prompt, by class.
    leaking : frozenset of int
        Indices of the prompts with such spans.
    """

    requests: int
    sent_bytes: int
    prompts: frozenset[int]
    spans: Counter[str]
    leaking: frozenset[int]


def what_left(requests: Sequence[Request], prompts: Sequence[Prompt], *, decode: Decode) -> Left:
    """Read the requests as the cloud's owner could.

    Parameters
    ----------
    requests : sequence of Request
        Calls of ``/v1/completions``; a prompt in it is a text or token ids, or a list of these.
    prompts : sequence of Prompt
    decode : callable
        Gives the bytes of the LLM's token ids.

    Raises
    ------
    StrayTextError
        If a text begins like none of the prompts.
    """
    texts: dict[int, set[str]] = defaultdict(set)
    for request in requests:
        for text in texts_of(request, decode=decode):
            texts[_owner(text, prompts)].add(text)
    spans, leaking = Counter[str](), set()
    for at, seen in texts.items():
        found = spans_in("\0".join(seen), prompts[at])
        spans += found
        if found:
            leaking.add(at)
    return Left(
        len(requests),
        sum(request.size for request in requests),
        frozenset(texts),
        spans,
        frozenset(leaking),
    )


def spans_in(text: str, prompt: Prompt) -> Counter[str]:
    """Count the prompt's spans whose text stands in `text`, by class."""
    return Counter(
        label for start, end, label in prompt.spans if prompt.text[start:end].strip() in text
    )


def texts_of(request: Request, *, decode: Decode) -> list[str]:
    """Return the prompts of a request as texts."""
    if not request.body:
        return []
    prompt = json.loads(request.body)["prompt"]
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
        prompt = [prompt]
    return [
        each if isinstance(each, str) else decode(each).decode("utf-8", "replace")
        for each in prompt
    ]


def _owner(text: str, prompts: Sequence[Prompt]) -> int:
    """Return whose text it is: that of the prompt with the longest common beginning.

    Floe asks about text without its last word too, so the end of a prompt may be missing.
    """
    shared = [_common(text.lstrip(), each.text.lstrip()) for each in prompts]
    best = max(range(len(prompts)), key=shared.__getitem__)
    if 2 * shared[best] < min(len(text.lstrip()), len(prompts[best].text)):
        raise StrayTextError(
            f"A text of {len(text)} characters left that begins like none of the prompts."
        )
    return best


def _common(first: str, second: str) -> int:
    """Return the length of the common beginning."""
    for at, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return at
    return min(len(first), len(second))
