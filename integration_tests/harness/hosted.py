"""A server of the tiny host with its trace: requests to it, and what it has recorded."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from integration_tests.harness.tiny_models import PROMPTS, TinyModels
from integration_tests.harness.vllm_servers import Server

HOST = {"vllm_xargs": {"floe": "host"}}


@dataclass(frozen=True)
class Hosted:
    """A server of the tiny host and the trace that its processor writes."""

    server: Server
    trace: Path


def with_adapter(tiny: TinyModels) -> tuple[str, ...]:
    """Return the arguments by which a server has the host's adapter under the name ``tuned``."""
    return "--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"tuned={tiny.adapter}"


def labelled(label: str, **options: str) -> dict[str, Any]:
    return {"vllm_xargs": {"floe_label": label, **options}}


def outcomes(rows: Hosted, label: str) -> Counter[str]:
    lines = [json.loads(line) for line in rows.trace.read_text().splitlines()]
    return Counter(line["outcome"] for line in lines if line["label"] == label)


def finished(rows: Hosted) -> int:
    """Return how many streams the server's log says are finished, once it says no more."""
    counts = [-1]
    while len(counts) < 2 or counts[-1] != counts[-2]:
        counts.append(rows.server.log.read_text().count("floe_stream_finished"))
        time.sleep(0.5)
    return counts[-1]


def streamed(hosted: Hosted) -> list[int]:
    """Return the tokens of a streamed answer to the first prompt, which come bit by bit."""
    body = {"model": "tiny", "prompt": PROMPTS[0], "max_tokens": 24, "temperature": 0.0}
    reply = hosted.server.post("completions", {**body, "stream": True, "return_token_ids": True})
    events = [line.removeprefix("data: ") for line in reply.text.splitlines() if line]
    assert events.pop() == "[DONE]"
    assert len(events) > 12
    return [token for event in events for token in json.loads(event)["choices"][0]["token_ids"]]


def abort(hosted: Hosted, *, max_tokens: int) -> None:
    """Ask for an answer, labelled ``aborted``, and leave after its first token."""
    body = {"model": "tiny", "prompt": PROMPTS[3], "max_tokens": max_tokens, "ignore_eos": True}
    options = {**body, "stream": True, **labelled("aborted")}
    with httpx.stream(
        "POST", f"{hosted.server.url}/completions", json=options, timeout=60, trust_env=False
    ) as reply:
        next(reply.iter_lines())
