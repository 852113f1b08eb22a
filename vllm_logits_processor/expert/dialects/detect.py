"""Finds out which dialect a server speaks: by what it says of itself, or else by a question."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from floe_plugins.vllm_replies import read_token_ids
from vllm_logits_processor.alignment.unknown import is_unknown
from vllm_logits_processor.expert.dialects.dialect import Dialect, Expected
from vllm_logits_processor.expert.dialects.llama_cpp import (
    LlamaCppDialect,
    adapter_ids,
    root_of,
    slots_of,
)
from vllm_logits_processor.expert.dialects.openai_completions import OpenAiDialect
from vllm_logits_processor.expert.dialects.unknown_tokenizer import UnknownTokenizerDialect
from vllm_logits_processor.expert.dialects.vllm import VllmDialect
from vllm_logits_processor.expert.protocol import ExpertError, NoSuchModelError

#: Statuses of servers that refuse a field of the request.
REFUSED_FIELD = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
#: The only statuses that say that a server has no such route. Others may pass: a server that is
#: still loading answers 503.
_NO_ROUTE = (
    HTTPStatus.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.NOT_IMPLEMENTED,
)
#: Statuses that leave it to the completions route to say whether a server may be asked at all: keys
#: may be for that route alone.
_NOT_ALLOWED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a server answered: its status, its name in the header ``Server``, and a body."""

    status: int
    server: str
    body: bytes


#: Sends a request: method, URL, and the values of a POST.
Fetch = Callable[[str, str, Mapping[str, Any] | None], Coroutine[Any, Any, Reply]]


@dataclass(frozen=True, kw_only=True)
class Detected:
    """A server's dialect.

    Attributes
    ----------
    api : str
        One of `expert.api` but ``auto``.
    why : str
        By what it was recognised, as a clause.
    adapters : mapping of str to int
        For llama.cpp: ids of the adapters by name.
    context : int or None
        The most tokens of a text, those to come among them, if the server says so.
    """

    api: str
    why: str
    adapters: Mapping[str, int] = field(default_factory=dict)
    context: int | None = None


def is_asked(api: str) -> bool:
    """Return whether the server is asked anything with what is configured."""
    return api not in (VllmDialect.name, OpenAiDialect.name)


async def detect(fetch: Fetch, url: str, *, api: str, model: str) -> Detected:
    """Find out how a server is to be asked.

    Parameters
    ----------
    fetch : callable
        Raises where the server cannot be reached.
    url : str
        Its base URL, without a slash at its end.
    api : str
        What is configured; with ``auto`` the server is asked.
    model : str
        The model for the question whether token ids are taken: one token is generated.

    Raises
    ------
    ExpertError
        If the reply does not tell: a status that asks for a key or says that the server is still
        loading, or no JSON.
    """
    if not is_asked(api):
        return Detected(api=api, why="as configured")
    if api == LlamaCppDialect.name:
        return await _llama_cpp(fetch, url, why="as configured") or Detected(
            api=api, why="as configured"
        )
    models = await fetch("GET", f"{url}/models", None)
    if models.status not in _NOT_ALLOWED:
        _has_route(models)
    listed = _listed(models)
    owners = {str(each.get("owned_by")) for each in listed}
    if models.server == "llama.cpp" or "llamacpp" in owners:
        found = await _llama_cpp(fetch, url, why="it says so itself")
        if found is not None:
            return found
        why = "it is llama.cpp behind something that does not pass on its own routes"
        return Detected(api="openai-completions", why=why)
    if "vllm" in owners:
        # Adapters are listed beside their base model, with its length.
        lengths = [each.get("max_model_len") for each in listed]
        context = min((each for each in lengths if isinstance(each, int)), default=None)
        return Detected(api="vllm", why="it says so itself", context=context)
    return await _by_a_question(fetch, url, model=model)


def make_dialect(detected: Detected, expected: Expected, *, base: str | None) -> Dialect:
    """Return the dialect; `base` is the configured name of the expert's model.

    Raises
    ------
    ExpertError
        If a dialect by spelling lacks the tokenizer.
    """
    if detected.api == LlamaCppDialect.name:
        return LlamaCppDialect(expected, base=base, adapters=detected.adapters)
    if detected.api == OpenAiDialect.name:
        if expected.tokenizer is not None and is_unknown(expected.tokenizer):
            return UnknownTokenizerDialect(expected)
        return OpenAiDialect(expected)
    return VllmDialect(expected)


async def _llama_cpp(fetch: Fetch, url: str, *, why: str) -> Detected | None:
    """Return what a llama.cpp server says of its adapters and slots, None if it does not tell."""
    reply = await fetch("GET", f"{root_of(url)}/lora-adapters", None)
    if not _has_route(reply):
        return None
    try:
        adapters = adapter_ids(_json(reply.body))
    except ExpertError:
        return None
    props = await fetch("GET", f"{root_of(url)}/props", None)
    slots = slots_of(props.body) if _has_route(props) else None
    context = None if slots is None else slots.context
    return Detected(api=LlamaCppDialect.name, why=why, adapters=adapters, context=context)


async def _by_a_question(fetch: Fetch, url: str, *, model: str) -> Detected:
    """Ask as one asks vLLM, which proxies pass on too."""
    values = {
        "model": model,
        "prompt": [[1]],
        "max_tokens": 1,
        "logprobs": 1,
        "return_tokens_as_token_ids": True,
        "temperature": 0.0,
    }
    reply = await fetch("POST", f"{url}/completions", values)
    text = Detected(api="openai-completions", why="it does not give tokens by their ids")
    if reply.status in REFUSED_FIELD:
        return text
    if reply.status != HTTPStatus.OK:
        raise _refusal(reply.status)
    said = _json(reply.body)
    try:
        logprobs = said["choices"][0]["logprobs"]
    except (LookupError, TypeError):
        raise ExpertError("The expert's reply is not a completion with logprobs.") from None
    try:
        by_ids = read_token_ids(logprobs["tokens"]) is not None
    except (LookupError, TypeError, ValueError):
        by_ids = False
    if not by_ids:
        return text
    return Detected(api="vllm", why="it gives tokens by their ids")


def _has_route(reply: Reply) -> bool:
    """Return whether a server has the route that it answered; raise if its status does not tell."""
    if reply.status in _NO_ROUTE:
        return False
    if reply.status != HTTPStatus.OK:
        raise _refusal(reply.status)
    return True


def _refusal(status: int) -> ExpertError:
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return ExpertError(f"The expert is still loading (HTTP {status}).")
    kind = NoSuchModelError if status == HTTPStatus.NOT_FOUND else ExpertError
    return kind(f"The expert answered HTTP {status}.")


def _listed(models: Reply) -> list[dict[str, Any]]:
    """Return the entries of a list of models; none if it is no such list."""
    said = _json(models.body) if models.status == HTTPStatus.OK else None
    listed = said.get("data") if isinstance(said, dict) else None
    entries = listed if isinstance(listed, list) else []
    return [each for each in entries if isinstance(each, dict)]


def _json(body: bytes) -> Any:
    """Return the value of a body; None if it is no JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
