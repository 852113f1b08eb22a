"""Checks the expert's servers: replies, their API, number of logprobs, latency and caches."""

from __future__ import annotations

import json
import math
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
from vllm_logits_processor.expert.dialects.llama_cpp import root_of, slots_of
from vllm_logits_processor.expert.fetcher import Fetcher
from vllm_logits_processor.expert.http import CompletionsExpert
from vllm_logits_processor.expert.protocol import ExpertError
from vllm_logits_processor.expert.same_tokenizer import tokenizer_fault
from vllm_logits_processor.observe import server_of

#: Timed requests, after one that is not timed; and the tokens of the first one's prompt.
_TIMED, _PROMPT = 5, 64
#: Tokens of a call by which is measured what each takes; and steps of hosts, in milliseconds, for
#: which it is said how many tokens a call should have.
_AHEAD, _STEPS_MS = 8, (10, 50)
#: A prompt of tokens that every vocabulary has, and one for an expert without.
_SHORT = (301, 302, 303)
_SHORT_TEXT = b"Water boils at one hundred degrees, and"
#: With longer blocks a step's prefix is recomputed for too many tokens.
_LONGEST_BLOCK = 64
#: Bound on the token ids of a reply if the tokenizer is unknown.
_ANY_TOKEN = 2**31 - 1

_CACHE = re.compile(r"^vllm:cache_config_info\{(?P<labels>[^}]*)\}", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def expert_lines(config: FloeConfig, *, tokenizer: ByteVocabulary | None) -> list[Line]:
    """Check each of the expert's servers; `tokenizer` is the configured one, if readable."""
    expert = config.expert
    if not expert.urls:
        return [_in_process(expert, config.plugins)]
    lines = []
    for url in expert.urls:
        reached = _reached(expert, url)
        lines.append(reached)
        if reached.advice:
            continue
        lines.append(loop_line(expert, url, host_url=config.host_url))
        if tokenizer is not None and expert.knows_tokenizer:
            lines.append(_same_tokenizer(expert, url, tokenizer))
        client = _client(expert, url, top_k=expert.top_k, tokenizer=tokenizer)
        try:
            api, line = _api(client)
            lines.append(line)
            if api is None:
                continue
            takes = partial(_takes, expert.changed(api=api), url, tokenizer)
            answers, line = _logprobs(expert, client, api, takes)
            lines.append(line)
            if answers:
                seconds, line = _latency(config, client)
                lines.append(line)
                if seconds is not None:
                    lines.append(_distance(config, client, seconds))
                    if api == "vllm":
                        lines.append(_sessions(client))
        finally:
            client.close()
        if api == "vllm":
            lines.append(_blocks(expert, url))
        elif api == "llama.cpp":
            lines.append(_slots(expert, url))
    return lines


def _api(client: CompletionsExpert) -> tuple[str | None, Line]:
    """Return how the server is asked, None if that cannot be known, and a line about it."""
    check = "expert api"
    try:
        detected, dialect = client.decided().result()
    except ExpertError as error:
        advice = "name what the server speaks in expert.api"
        return None, red(check, f"it cannot be found out: {error}", advice)
    lacks = dialect.abilities.lacks()
    found = f"{detected.api} ({detected.why})"
    return detected.api, green(check, f"{found}: {lacks}" if lacks else found)


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
        advice = (
            "start it there, or correct expert.url; `floe-llm slm serve MODEL --port PORT` starts "
            f"llama.cpp, and vLLM: vllm serve MODEL --served-model-name {expert.model}"
        )
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
        listed = json.loads(body)["data"]
        models = [str(model["id"]) for model in listed]
        owners = {str(model.get("owned_by")) for model in listed}
    except (AttributeError, ValueError, KeyError, TypeError):
        advice = "expert.url must be that of an OpenAI-compatible server"
        return red("expert", f"{server}/models lists no models", advice)
    if expert.model not in models and "llamacpp" not in owners:
        advice = f"set expert.model to what it serves: {', '.join(models[:5]) or 'nothing'}"
        return red("expert", f"{server} does not serve {expert.model!r}", advice)
    if expert.model not in models:
        # It has one model, and takes any name.
        return green("expert", f"{server} answers as {expert.model!r}")
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
    expert: ExpertConfig, url: str, *, top_k: int, tokenizer: ByteVocabulary | None
) -> CompletionsExpert:
    return completions_expert(
        expert,
        url,
        top_k=top_k,
        vocabulary=_ANY_TOKEN if tokenizer is None else len(tokenizer),
        end_ids=np.empty(0, dtype=np.int32),
        tokenizer=tokenizer,
    )


#: What must be done for more logprobs, and what a server of each dialect must do.
_MORE = {
    "vllm": "start it with --max-logprobs {wanted}, or set expert.top_k to {most}",
    "llama.cpp": "set expert.top_k to {most}",
    "openai-completions": "set expert.top_k to {most}: such servers have a limit of their own",
}
_MUST = {
    "vllm": "it must take token ids as prompts and return logprobs by token id, as vLLM does; for "
    "other servers see expert.api",
    "llama.cpp": "expert.url must be the address of llama.cpp's server itself",
    "openai-completions": "it must return logprobs of its completions, and take a text as prompt",
}


def _logprobs(
    expert: ExpertConfig, client: CompletionsExpert, api: str, takes: Callable[[int], bool]
) -> tuple[bool, Line]:
    """Request as many logprobs as configured; if refused, find the largest number that works."""
    try:
        reply = client.start([_short(expert)], model=expert.model).result()
    except ExpertError as error:
        if expert.top_k > 1 and takes(1):
            most = _largest(takes, least=1, too_many=expert.top_k)
            return False, red(
                "expert K",
                f"top_k is {expert.top_k}, the server gives at most {most}",
                _MORE[api].format(wanted=expert.top_k, most=most),
            )
        return False, red("expert K", str(error), _MUST[api])
    top = reply.continuations[0].top
    if top.spelled and not any(each.data[:1].isspace() for each in top.spelled):
        advice = "name its tokenizer in expert.tokenizer: without it such tokens are other words"
        return True, red("expert K", "it spells tokens without the space before a word", advice)
    given = int(top.token_ids.shape[1])
    # vLLM adds the sampled token if it is not among the top.
    if given < expert.top_k:
        if api == "openai-completions":
            found = f"of {expert.top_k} logprobs a token, {given} could be told by their spelling"
            return True, unknown("expert K", found, "the rest counts as not known")
        advice = f"set expert.top_k to {given}: the rest is not there to be asked for"
        return True, red("expert K", f"top_k is {expert.top_k}, the server gave {given}", advice)
    return True, green("expert K", f"{expert.top_k} logprobs a token, as configured")


def _short(expert: ExpertConfig) -> tuple[int, ...]:
    return _SHORT if expert.knows_tokenizer else tuple(_SHORT_TEXT)


def _takes(expert: ExpertConfig, url: str, tokenizer: ByteVocabulary | None, top_k: int) -> bool:
    client = _client(expert, url, top_k=top_k, tokenizer=tokenizer)
    try:
        client.start([_short(expert)], model=expert.model).result()
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


def _latency(config: FloeConfig, client: CompletionsExpert) -> tuple[float | None, Line]:
    """Time calls like those of decoding steps; return the median in seconds, if they succeed."""
    try:
        times = _timed(config, client)
    except ExpertError as error:
        return None, red("expert latency", str(error), "look at the expert's own log")
    first, median = 1000 * times[0], 1000 * statistics.median(times[1:])
    unit = "tokens" if config.expert.knows_tokenizer else "bytes"
    found = f"{median:.0f} ms a token, {first:.0f} ms for a prompt of {_PROMPT} {unit}"
    if median > config.deadline_ms:
        advice = (
            f"deadline_ms is {config.deadline_ms:g}: every token would be late. Raise it, or see "
            "expert.lookahead"
        )
        return median / 1000, red("expert latency", found, advice)
    if first > config.first_deadline_ms:
        advice = f"first_deadline_ms is {config.first_deadline_ms:g}: raise it"
        return median / 1000, red("expert latency", found, advice)
    found = f"{found}; deadline_ms is {config.deadline_ms:g}"
    if first > config.deadline_ms:
        found += ": an answer's first tokens are the host's"
    return median / 1000, green("expert latency", found)


def _timed(config: FloeConfig, client: CompletionsExpert, *, steps: int = 1) -> list[float]:
    """Return the seconds of calls, each for a text that is one token longer than the last."""
    short = _short(config.expert)
    prompt = [*(short * _PROMPT)[:_PROMPT]]
    times = []
    for place in range(1 + _TIMED):
        begun = time.monotonic()
        text = [*prompt, *(short * 2)[:place]]
        client.start([text], model=config.expert.model, steps=steps).result()
        times.append(time.monotonic() - begun)
    return times


def _distance(config: FloeConfig, client: CompletionsExpert, seconds: float) -> Line:
    """Say which hosts gain from more than one token a call, and from how many.

    The host does not run yet, so its step is not known.
    """
    check, trip_ms = "expert distance", 1000 * seconds
    trip = f"{trip_ms:.3g}"
    found = (
        f"{trip} ms a call: a host whose step takes S ms, fewer than {trip}, gains from up to "
        f"ceil({trip} / S) tokens a call"
    )
    known = [(step, math.ceil(trip_ms / step)) for step in _STEPS_MS if step < trip_ms]
    if known:
        found += f" ({', '.join(f'{tokens} at {step} ms' for step, tokens in known)})"
    found += ", by expert.lookahead or vLLM's num_speculative_tokens"
    try:
        longer = statistics.median(_timed(config, client, steps=_AHEAD)[1:])
    except ExpertError as error:
        return unknown(check, f"{found}; a call for {_AHEAD} tokens fails: {error}")
    more_ms = max(0.0, 1000 * (longer - seconds) / (_AHEAD - 1))
    return green(check, f"{found}; each further token of a call takes {more_ms:.2g} ms")


def _sessions(client: CompletionsExpert) -> Line:
    """Say whether a call sends a whole text; a reply has told."""
    check = "expert sessions"
    if client.keeps_sessions:
        return green(check, "it keeps texts between calls: a call sends what is new")
    return green(
        check,
        "a call sends whole texts; for a slow line see --middleware "
        "floe_plugins.middleware.ExpertSessions",
    )


def _slots(expert: ExpertConfig, url: str) -> Line:
    """Check how many texts llama.cpp keeps, and of which length."""
    check = "expert slots"
    slots = slots_of((Fetcher(expert).body(f"{root_of(url)}/props") or "").encode())
    if slots is None:
        return unknown(check, "the server does not say how many texts it keeps")
    found = f"{slots.count} slots of {slots.context} tokens, one for each text"
    if expert.context is not None and expert.context > slots.context:
        advice = f"set expert.context to {slots.context}, or start it with a larger --ctx-size"
        return red(check, f"{found}; expert.context is {expert.context}", advice)
    return green(check, f"{found}; a longer text is the host's alone")


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
