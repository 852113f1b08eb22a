"""Measures whole runs, what one reply costs, and expert calls of many streams."""

import json
import logging
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from flwr.app import Message, MessageType

from flower_strategy.adapters import int8
from flower_strategy.adapters.adapter import LayerShapes, initial_adapter
from flower_strategy.adapters.mean import AdapterMean
from flower_strategy.device.base_model import adapted_shapes
from flower_strategy.ranks.policies import DeadlinePolicy
from flower_strategy.server.checkpoint import ARRAYS_FILE, STATE_FILE, pack_round
from flower_strategy.server.replies import Sent, read_train_reply
from flower_strategy.server.update_norms import LengthJudge, OwnLength, update_norm
from flower_strategy.settings import CheckpointSettings, ReplyRules, TrainingSettings
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.fusion_cost.measure import Pair, one_case, synthetic
from integration_tests.benchmarks.scale import fleet
from vllm_logits_processor.expert.http import CompletionsExpert, LoopThread
from vllm_logits_processor.expert.protocol import ExpertReply
from vllm_logits_processor.testing.fake_expert import fake_expert

RANKS = (4, 8, 16, 32)
EXPERT_VOCABULARY = 49_152
HOST_VOCABULARY = 151_936
_PARTS = 10
_PATIENCE = 1e9
_WARM_UP = 32  # rank of the replies by which every sum becomes as large as it gets
_EXAMPLES = 32
_FUSED_ROWS = 32
_MODEL = "slm"


def measure(options: cli.Namespace) -> dict[str, Any]:
    """Measure both halves."""
    torch.set_num_threads(1)
    shapes = adapted_shapes(options.model)
    all_blocks = count_blocks(shapes)
    runs = [
        run(options.model, shapes, blocks=options.blocks, devices=devices, seed=options.seed)
        for devices in cli.progress(sorted(options.devices), "runs")
    ]
    size = {key: getattr(options, key) for key in ("text", "calls", "repeats")}
    return {
        **{key: getattr(options, key) for key in ("model", "seed", "forward_ms", "text")},
        "blocks": min(options.blocks, all_blocks),
        "all_blocks": all_blocks,
        "runs": runs,
        "whole": reply_costs(shapes, RANKS, terms=options.terms, seed=options.seed),
        **expert_calls(sorted(options.streams), sorted(options.k), **size),
    }


def run(model: str, shapes: LayerShapes, *, blocks: int, devices: int, seed: int) -> dict[str, Any]:
    """Run the evaluation before training and one round over all devices.

    Adapters have the model's first `blocks` alone: with all, 10,000 replies would take the better
    part of an hour. Returned are seconds and peak memory per stage, memory and seconds over the
    replies in tenths, bytes, checkpoint sizes.
    """
    # A line per reply otherwise.
    logging.getLogger("flwr").setLevel(logging.WARNING)
    some = first_blocks(shapes, blocks)
    per_rank = int8.bytes_per_rank(shapes)
    grid = fleet.FleetGrid(some, per_rank, devices, seed=seed)
    with tempfile.TemporaryDirectory() as folder, fleet.Watch(grid) as watch:
        strategy = fleet.WatchedStrategy(
            training=TrainingSettings(model=model, seed=seed),
            rank_policy=DeadlinePolicy(candidates=RANKS),
            output=Path(folder),
            checkpoints=CheckpointSettings(keep=1),
        )
        strategy.watch = watch
        initial = initial_adapter(some, rank=strategy.server_rank, seed=seed)
        strategy.start(grid, initial.to_arrays(), num_rounds=1, timeout=_PATIENCE)
    (record,) = [each for each in strategy.state.history if each.round == 1]
    ranks = Counter(device.rank for device in record.devices.values())
    after = watch.checkpoints[-1]
    return {
        "devices": devices,
        "clusters": len(strategy.state.clusters),
        "replies": sum(outcome.replies for outcome in record.clusters.values()),
        "ranks": {str(rank): count for rank, count in sorted(ranks.items())},
        "seconds": watch.seconds,
        "peak_mib": watch.peak_mib,
        "tenths": _tenths(watch, grid.trained),
        "bytes_up": sum(each.bytes_up for each in record.devices.values()),
        "bytes_whole_model": per_rank * sum((rank or 0) * count for rank, count in ranks.items()),
        "checkpoint_bytes": sum(after.values()),
        "checkpoint_state_bytes": after[STATE_FILE],
        "checkpoint_arrays_bytes": after[ARRAYS_FILE],
        "history_bytes_per_round": len(json.dumps(pack_round(record))),
    }


def first_blocks(shapes: LayerShapes, blocks: int) -> dict[str, tuple[int, int]]:
    some = list(dict.fromkeys(map(_block, shapes)))[:blocks]
    return {name: shape for name, shape in shapes.items() if _block(name) in some}


def count_blocks(shapes: LayerShapes) -> int:
    return len(set(map(_block, shapes)))


def _block(layer: str) -> str:
    return next((part for part in layer.split(".") if part.isdigit()), layer)


def _tenths(watch: fleet.Watch, delivered: Sequence[fleet.Delivery]) -> list[dict[str, float]]:
    """Return seconds and resident memory of the replies, tenth by tenth."""
    found, count = [], len(delivered)
    edges = [at * count // _PARTS for at in range(_PARTS + 1)]
    times = [at for at, _ in watch.samples]
    for begin, end in pairwise(edges):
        first, last = delivered[begin], delivered[max(begin, end - 1)]
        took = last.server_seconds - first.server_seconds
        # A short tenth may lie between two samples: the one before it counts, too.
        sampled = slice(max(0, bisect_left(times, first.at) - 1), bisect_right(times, last.at))
        memory = [mib for _, mib in watch.samples[sampled]]
        if took and memory:
            each = took / (end - begin)
            found.append({"replies": end, "seconds_each": each, "resident_mib": max(memory)})
    return found


def reply_costs(
    shapes: LayerShapes, ranks: Sequence[int], *, terms: int, seed: int
) -> dict[str, Any]:
    """Read, judge and fold replies of every rank into one mean, as the strategy does.

    The replies of a rank have `terms` rank-one terms together, ``terms / rank`` replies: a sum
    takes terms in by the 256, so as many are needed for a fair mean. Of each rank the bytes and the
    processor seconds of every part are told; ``mean_bytes`` is what the process grew by when the
    sum had got as large as it gets; ``result_s`` the processor seconds of the mean at the end.
    """
    (first,) = fleet.trained_adapters(shapes, _WARM_UP, count=1, seed=seed)
    process = psutil.Process()
    before = process.memory_info().rss
    mean = AdapterMean(shapes)
    widest = max(out * inner // (out + inner) for out, inner in shapes.values())
    while mean.count * _WARM_UP <= widest:
        mean.add(first, weight=1.0)
    held = process.memory_info().rss - before
    found = []
    for rank in cli.progress(ranks, "replies"):
        sent = initial_adapter(shapes, rank=rank, seed=seed)
        length = OwnLength.of(sent).after(3 * 2e-3)
        expected = Sent("cluster-0", sent, _EXAMPLES, length, rank)
        (adapter,) = fleet.trained_adapters(shapes, rank, count=1, seed=seed)
        message = Message(
            content=fleet.train_reply(int8.encode(adapter), examples=_EXAMPLES),
            message_type=MessageType.TRAIN,
            dst_node_id=1,
        )
        found.append({"rank": rank, **_one_rank(message, expected, mean, max(2, terms // rank))})
    begun = time.process_time()
    mean.result(max(ranks))
    took = time.process_time() - begun
    return {"replies": found, "mean_bytes": held, "result_s": took}


def _one_rank(message: Message, expected: Sent, mean: AdapterMean, count: int) -> dict[str, Any]:
    reading = judging = folding = 0.0
    for _ in range(count):
        begun = time.process_time()
        reply = read_train_reply(message, expected, ReplyRules())
        read = time.process_time()
        norm = update_norm(reply.adapter.scaled(0.0), reply.adapter)
        kept = LengthJudge(ReplyRules().norm_limit).judge(norm, expected.length).kept
        judged = time.process_time()
        mean.add(reply.adapter.scaled(kept) if kept < 1 else reply.adapter, weight=reply.steps)
        folded = time.process_time()
        reading, judging = reading + read - begun, judging + judged - read
        folding += folded - judged
    return {
        "count": count,
        "bytes": int8.encoded_bytes(reply.adapter),
        "read_s": reading / count,
        "judge_s": judging / count,
        "fold_s": folding / count,
        "seconds": (reading + judging + folding) / count,
    }


def expert_calls(
    streams: Sequence[int], top_k: Sequence[int], *, text: int, calls: int, repeats: int
) -> dict[str, Any]:
    """Measure one call of every size, and the fusion of a row with every K.

    A call holds the whole `text` of each stream, so many expert tokens; the median of `calls`
    counts.
    """
    pair = synthetic(HOST_VOCABULARY, k=max(top_k), rows=_FUSED_ROWS)
    every = [(count, k) for k in top_k for count in streams]
    found = [
        {"streams": count, "k": k, **_call(count, k, pair, text=text, calls=calls)}
        for count, k in cli.progress(every, "expert calls")
    ]
    fusion = [
        one_case(pair, rows=_FUSED_ROWS, vocabulary=HOST_VOCABULARY, k=k, times=repeats)
        for k in cli.progress(top_k, "fusion")
    ]
    costs = [
        {"k": case["k"], "rows": _FUSED_ROWS, "row_ms": case["apply_ms"] / _FUSED_ROWS}
        for case in fusion
    ]
    return {"calls": found, "fusion": costs}


def reply_body(tokens: np.ndarray[Any, Any], logprobs: np.ndarray[Any, Any]) -> bytes:
    """Return what vLLM's completions endpoint answers for one next token of every prompt.

    Tokens and logprobs have the shape (prompts, K), the likeliest first; logprobs are sent as the
    float32 that vLLM has.
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
        "usage": {
            "prompt_tokens": 0,
            "total_tokens": len(choices),
            "completion_tokens": len(choices),
            "prompt_tokens_details": None,
        },
        "service_tier": None,
        "system_fingerprint": None,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }
    return json.dumps(body, separators=(",", ":")).encode()


def _call(streams: int, k: int, pair: Pair, *, text: int, calls: int) -> dict[str, Any]:
    """Send one batched request over a real connection; count bytes and the client's seconds."""
    rows = np.arange(streams) % len(pair.top.token_ids)
    # The made-up expert may have fewer tokens than the vocabulary that is announced; none above.
    tokens = pair.top.token_ids[rows, :k]
    body = reply_body(tokens, pair.top.logprobs[rows, :k])
    random = np.random.default_rng(streams)
    prompts = random.integers(0, EXPERT_VOCABULARY, (streams, text)).tolist()
    loop = LoopThread()
    with fake_expert(lambda _: body) as server:
        known: dict[str, Any] = {
            "vocabulary": EXPERT_VOCABULARY,
            "end_ids": np.array([0], np.int32),
        }
        expert = CompletionsExpert(url=server.url, top_k=k, loop=loop, timeout_s=300.0, **known)
        seconds = []
        for _ in range(calls):
            before = loop.submit(_thread_seconds()).result()
            reply: ExpertReply = expert.start(prompts, model=_MODEL).result()
            seconds.append(loop.submit(_thread_seconds()).result() - before)
            server.requests.clear()
        expert.close()
    loop.close()
    median = float(np.median(seconds))
    return {"bytes_up": reply.sent_bytes, "bytes_down": reply.received_bytes, "seconds": median}


async def _thread_seconds() -> float:
    """Return the processor seconds of the thread that all calls run on."""
    return time.thread_time()
