"""Expert calls of many streams: bytes, processor time, and what fusion costs beside them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from integration_tests.benchmarks import cli
from integration_tests.benchmarks.fusion_cost import measure as fusion_cost
from vllm_logits_processor.expert.conftest import fake_expert
from vllm_logits_processor.expert.http import CompletionsExpert, LoopThread
from vllm_logits_processor.expert.protocol import ExpertReply

EXPERT_VOCABULARY = 49_152
HOST_VOCABULARY = 151_936
_FUSED_ROWS = 32
_MODEL = "slm"


def measure(
    streams: Sequence[int], top_k: Sequence[int], *, text: int, calls: int, repeats: int
) -> dict[str, Any]:
    """Measure one call of every size, and the fusion of a row with every K.

    Parameters
    ----------
    streams : Sequence[int]
        Streams that share a call.
    top_k : Sequence[int]
        Logprobs per stream.
    text : int
        Expert tokens of each stream's text, which every call holds in whole.
    calls : int
        Timed calls of each size; the median counts.
    repeats : int
        Timed fusions of each K.
    """
    pair = fusion_cost.synthetic(HOST_VOCABULARY, k=max(top_k), rows=_FUSED_ROWS)
    every = [(count, k) for k in top_k for count in streams]
    found = [
        {
            "streams": count,
            "k": k,
            **_call(count, k, pair, text=text, calls=calls),
        }
        for count, k in cli.progress(every, "expert calls")
    ]
    fusion = [
        fusion_cost.measure(pair, rows=_FUSED_ROWS, vocabulary=HOST_VOCABULARY, k=k, times=repeats)
        for k in cli.progress(top_k, "fusion")
    ]
    return {
        "calls": found,
        "fusion": [
            {"k": case.k, "rows": case.rows, "row_ms": case.apply_ms / case.rows} for case in fusion
        ],
    }


def reply_body(tokens: np.ndarray[Any, Any], logprobs: np.ndarray[Any, Any]) -> bytes:
    """Return what vLLM's completions endpoint answers for one next token of every prompt.

    Parameters
    ----------
    tokens : int array, shape (prompts, K)
        The top tokens, the likeliest first.
    logprobs : float array, shape (prompts, K)
        Their logprobs; as float32, which is what vLLM has.
    """
    choices = []
    for place, (row, said) in enumerate(zip(tokens, logprobs.astype(np.float32), strict=True)):
        names = [f"token_id:{token}" for token in row.tolist()]
        values = said.astype(float).tolist()
        choices.append(
            {
                "index": place,
                "text": " the",
                "logprobs": {
                    "text_offset": [0],
                    "token_logprobs": values[:1],
                    "tokens": names[:1],
                    "top_logprobs": [dict(zip(names, values, strict=True))],
                },
                "finish_reason": "length",
                "stop_reason": None,
                "token_ids": None,
                "prompt_logprobs": None,
                "prompt_token_ids": None,
                "routed_experts": None,
            }
        )
    body = {
        "id": "cmpl-0123456789abcdef0123456789abcdef",
        "object": "text_completion",
        "created": 1_790_000_000,
        "model": _MODEL,
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": None,
        "usage": {
            "prompt_tokens": 0,
            "total_tokens": len(choices),
            "completion_tokens": len(choices),
            "prompt_tokens_details": None,
        },
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }
    return json.dumps(body, separators=(",", ":")).encode()


def _call(streams: int, k: int, pair: fusion_cost.Pair, *, text: int, calls: int) -> dict[str, Any]:
    """Send one batched request over a real connection; count bytes and the client's seconds."""
    rows = np.arange(streams) % len(pair.top.token_ids)
    # The made-up expert may have fewer tokens than the vocabulary that is announced; none above.
    tokens = pair.top.token_ids[rows, :k]
    body = reply_body(tokens, pair.top.logprobs[rows, :k])
    random = np.random.default_rng(streams)
    prompts = random.integers(0, EXPERT_VOCABULARY, (streams, text)).tolist()
    loop = LoopThread()
    with fake_expert(lambda _: body) as server:
        expert = CompletionsExpert(
            url=server.url,
            top_k=k,
            vocabulary=EXPERT_VOCABULARY,
            end_ids=np.array([0], np.int32),
            loop=loop,
            timeout_s=300.0,
        )
        seconds = []
        for _ in range(calls):
            before = loop.submit(_thread_seconds()).result()
            reply: ExpertReply = expert.start(prompts, model=_MODEL).result()
            seconds.append(loop.submit(_thread_seconds()).result() - before)
            server.requests.clear()
        expert.close()
    loop.close()
    return {
        "bytes_up": reply.sent_bytes,
        "bytes_down": reply.received_bytes,
        "seconds": float(np.median(seconds)),
    }


async def _thread_seconds() -> float:
    """Return the processor seconds of the thread that all calls run on."""
    return time.thread_time()
