"""Checks the expert's servers: replies, number of logprobs, latency and cache blocks."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus

import numpy as np

from floe_plugins.commands.doctor_lines import Line, green, red, unknown
from floe_plugins.errors import FloeError
from floe_plugins.models import resolve
from vllm_logits_processor.alignment.vocabulary import ByteVocabulary
from vllm_logits_processor.commands.doctor_loop import loop_line
from vllm_logits_processor.config import ExpertConfig, FloeConfig
from vllm_logits_processor.expert.build import completions_expert
from vllm_logits_processor.expert.fetcher import Fetcher
from vllm_logits_processor.expert.http import CompletionsExpert
from vllm_logits_processor.expert.protocol import ExpertError
from vllm_logits_processor.expert.same_tokenizer import tokenizer_fault
from vllm_logits_processor.observe import server_of

#: Timed requests, after one that is not timed; and the tokens of the first one's prompt.
_TIMED, _PROMPT = 5, 64
#: With longer blocks a step's prefix is recomputed for too many tokens.
_LONGEST_BLOCK = 64
#: Bound on the token ids of a reply if the tokenizer is unknown.
_ANY_TOKEN = 2**31 - 1

_CACHE = re.compile(r"^vllm:cache_config_info\{(?P<labels>[^}]*)\}", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def expert_lines(config: FloeConfig, *, tokenizer: ByteVocabulary | None) -> list[Line]:
    """Check each of the expert's servers; `tokenizer` is the configured one, if readable."""
    expert = config.expert
    vocabulary = None if tokenizer is None else len(tokenizer)
    if not expert.urls:
        return [_in_process(expert, config.plugins)]
    lines = []
    for url in expert.urls:
        reached = _reached(expert, url)
        lines.append(reached)
        if reached.advice:
            continue
        lines.append(loop_line(expert, url, host_url=config.host_url))
        if tokenizer is not None:
            lines.append(_same_tokenizer(expert, url, tokenizer))
        client = _client(expert, url, top_k=expert.top_k, vocabulary=vocabulary)
        try:
            answers, line = _logprobs(expert, client, partial(_takes, expert, url))
            lines.append(line)
            if answers:
                lines.append(_latency(config, client))
        finally:
            client.close()
        lines.append(_blocks(expert, url))
    return lines


def _in_process(expert: ExpertConfig, plugins: tuple[str, ...]) -> Line:
    try:
        where = resolve(expert.model, plugins=plugins)
    except FloeError as error:
        return red("expert", str(error), "name a model in expert.model, or a server in expert.url")
    return green("expert", f"{where}, loaded into the host's process at its start")


def _reached(expert: ExpertConfig, url: str) -> Line:
    server = server_of(url)
    try:
        reply = Fetcher(expert).get(f"{url.rstrip('/')}/models")
    # The files with key and certificates exist, as the configuration requires; reading may fail.
    except (FloeError, OSError) as error:
        said = str(error) if isinstance(error, FloeError) else f"ca_file: {type(error).__name__}"
        return red("expert", f"{server} cannot be asked: {said}", "correct that file")
    if isinstance(reply, str):
        advice = f"start it, such as: vllm serve MODEL --served-model-name {expert.model}"
        if "nobody listens" not in reply:
            advice = (
                "correct expert.url or expert.ca_file, or what keeps that server from answering"
            )
        return red("expert", f"{server} does not answer: {reply}", advice)
    status, body = reply
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        advice = "it wants another API key: expert.api_key_env or expert.api_key_file"
        return red("expert", f"{server} answers HTTP {status}", advice)
    if status != HTTPStatus.OK:
        advice = "expert.url must end before /completions, usually in /v1"
        return red("expert", f"{server}/models answers HTTP {status}", advice)
    try:
        models = [str(model["id"]) for model in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError):
        advice = "expert.url must be that of an OpenAI-compatible server"
        return red("expert", f"{server}/models lists no models", advice)
    if expert.model not in models:
        advice = f"set expert.model to what it serves: {', '.join(models[:5]) or 'nothing'}"
        return red("expert", f"{server} does not serve {expert.model!r}", advice)
    return green("expert", f"{server} serves {expert.model!r}")


def _same_tokenizer(expert: ExpertConfig, url: str, tokenizer: ByteVocabulary) -> Line:
    check = "expert tokenizer"
    fault = tokenizer_fault(
        Fetcher(expert), url, model=expert.model, vocabulary=tokenizer, echo=True
    )
    if fault is None:
        advice = f"see to it that expert.tokenizer is that of {expert.model!r}"
        return unknown(check, "the server does not say how it tokenizes", advice)
    if fault:
        advice = (
            f"set expert.tokenizer to the tokenizer of the model that {server_of(url)} serves as "
            f"{expert.model!r}: what it says would be fused as other text"
        )
        return red(check, f"the server has another one: {fault}", advice)
    return green(check, f"the server tokenizes as {expert.tokenizer_reference!r} does")


def _client(
    expert: ExpertConfig, url: str, *, top_k: int, vocabulary: int | None
) -> CompletionsExpert:
    return completions_expert(
        expert,
        url,
        top_k=top_k,
        vocabulary=vocabulary or _ANY_TOKEN,
        end_ids=np.empty(0, dtype=np.int32),
    )


def _logprobs(
    expert: ExpertConfig, client: CompletionsExpert, takes: Callable[[int], bool]
) -> tuple[bool, Line]:
    """Request as many logprobs as configured; if refused, find the largest number that works."""
    try:
        reply = client.start([[1, 2, 3]], model=expert.model).result()
    except ExpertError as error:
        if expert.top_k > 1 and takes(1):
            most = _largest(takes, least=1, too_many=expert.top_k)
            return False, red(
                "expert K",
                f"top_k is {expert.top_k}, the server gives at most {most}",
                f"start it with --max-logprobs {expert.top_k}, or set expert.top_k to {most}",
            )
        advice = "it must take token ids as prompts and return logprobs by token id, as vLLM does"
        return False, red("expert K", str(error), advice)
    given = int(reply.continuations[0].top.token_ids.shape[1])
    # vLLM adds the sampled token if it is not among the top.
    if given < expert.top_k:
        advice = f"set expert.top_k to {given}: the rest is not there to be asked for"
        return True, red("expert K", f"top_k is {expert.top_k}, the server gave {given}", advice)
    return True, green("expert K", f"{expert.top_k} logprobs a token, as configured")


def _takes(expert: ExpertConfig, url: str, top_k: int) -> bool:
    client = _client(expert, url, top_k=top_k, vocabulary=None)
    try:
        client.start([[1, 2, 3]], model=expert.model).result()
    except ExpertError:
        return False
    finally:
        client.close()
    return True


def _largest(takes: Callable[[int], bool], *, least: int, too_many: int) -> int:
    """Return the largest accepted number, by bisection; `least` is accepted, `too_many` is not."""
    while too_many - least > 1:
        middle = (least + too_many) // 2
        if takes(middle):
            least = middle
        else:
            too_many = middle
    return least


def _latency(config: FloeConfig, client: CompletionsExpert) -> Line:
    """Time calls like those of decoding steps: each text is one token longer than the last."""
    prompt = [1 + place % 100 for place in range(_PROMPT)]
    times = []
    try:
        for place in range(1 + _TIMED):
            begun = time.monotonic()
            client.start([[*prompt, *range(1, 1 + place)]], model=config.expert.model).result()
            times.append(1000 * (time.monotonic() - begun))
    except ExpertError as error:
        return red("expert latency", str(error), "look at the expert's own log")
    first, median = times[0], statistics.median(times[1:])
    found = f"{median:.0f} ms a token, {first:.0f} ms for a prompt of {_PROMPT} tokens"
    if median > config.deadline_ms:
        advice = (
            f"deadline_ms is {config.deadline_ms:g}: every token would be late. Raise it, or see "
            "expert.lookahead"
        )
        return red("expert latency", found, advice)
    if first > config.first_deadline_ms:
        advice = f"first_deadline_ms is {config.first_deadline_ms:g}: raise it"
        return red("expert latency", found, advice)
    found = f"{found}; deadline_ms is {config.deadline_ms:g}"
    if first > config.deadline_ms:
        found += ": an answer's first tokens are the host's"
    return green("expert latency", found)


def _blocks(expert: ExpertConfig, url: str) -> Line:
    """Check prefix caching and the length of its blocks by vLLM's metrics."""
    check = "expert blocks"
    page = Fetcher(expert).body(f"{url.rstrip('/').removesuffix('/v1')}/metrics")
    found = _CACHE.search(page) if page else None
    if found is None:
        return unknown(check, "the server does not say: it is no vLLM, or shows no metrics")
    labels = dict(_LABEL.findall(found["labels"]))
    if labels.get("enable_prefix_caching") == "False":
        advice = "start it with --enable-prefix-caching: every step reads the whole text anew"
        return red(check, "prefix caching is off", advice)
    size = labels.get("block_size", "")
    if not size.isdigit():
        return unknown(check, "the server does not say how long its blocks are")
    if int(size) > _LONGEST_BLOCK:
        advice = f"start it with --block-size 32: each step computes up to {int(size) - 1} tokens"
        return red(check, f"{size} tokens a block", advice)
    return green(check, f"{size} tokens a block, prefix caching on")
