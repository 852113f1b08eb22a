"""What one training reply costs the server at the model's real size, part by part."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import psutil
from flwr.app import Message, MessageType, MetricRecord, RecordDict

from flower_strategy.adapters.adapter import AdapterState, LayerShapes, initial_adapter
from flower_strategy.adapters.mean import AdapterMean
from flower_strategy.messages import ARRAYS_KEY, METRICS_KEY
from flower_strategy.server.replies import Sent, read_train_reply
from flower_strategy.server.update_norms import LengthJudge, asked_length, update_norm
from flower_strategy.settings import ReplyRules
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.scale.fleet import trained_adapters

_WARM_UP = 32  # rank of the replies by which every sum becomes as large as it gets
_EXAMPLES = 32


def measure(shapes: LayerShapes, ranks: Sequence[int], *, terms: int, seed: int) -> dict[str, Any]:
    """Read, judge and fold replies of every rank into one mean, as the strategy does.

    Parameters
    ----------
    shapes : LayerShapes
        All layers of the model.
    ranks : Sequence[int]
        Ranks of the replies.
    terms : int
        Rank-one terms of all replies of a rank together: ``terms / rank`` replies each. A sum
        takes terms in by the 256, so as many are needed for a fair mean.
    seed : int
        Of the adapters.

    Returns
    -------
    dict
        ``replies``: bytes and processor seconds per rank and part; ``mean_bytes``: what the process
        grew by when the sum had got as large as it gets; ``result_s``: processor seconds of the
        mean at the end.
    """
    (first,) = trained_adapters(shapes, _WARM_UP, count=1, seed=seed)
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
        expected = Sent(
            "cluster-0",
            sent,
            _EXAMPLES,
            asked_length(sent, local_steps=3, learning_rate=2e-3),
        )
        (adapter,) = trained_adapters(shapes, rank, count=1, seed=seed)
        message = _message(adapter)
        found.append({"rank": rank, **_one_rank(message, expected, mean, max(2, terms // rank))})
    begun = time.process_time()
    mean.result(max(ranks))
    return {
        "replies": found,
        "mean_bytes": held,
        "result_s": time.process_time() - begun,
    }


def _one_rank(message: Message, expected: Sent, mean: AdapterMean, count: int) -> dict[str, Any]:
    reading = judging = folding = 0.0
    for _ in range(count):
        begun = time.process_time()
        reply = read_train_reply(message, expected, ReplyRules())
        read = time.process_time()
        norm = update_norm(expected.adapter, reply.adapter)
        kept = LengthJudge(ReplyRules().norm_limit).judge(norm, expected.length).kept
        judged = time.process_time()
        mean.add(reply.adapter, weight=reply.num_examples, sent=expected.adapter, kept=kept)
        folded = time.process_time()
        reading, judging = reading + read - begun, judging + judged - read
        folding += folded - judged
    return {
        "count": count,
        "bytes": reply.adapter.num_bytes,
        "read_s": reading / count,
        "judge_s": judging / count,
        "fold_s": folding / count,
        "seconds": (reading + judging + folding) / count,
    }


def _message(adapter: AdapterState) -> Message:
    metrics = MetricRecord(
        {"num-examples": _EXAMPLES, "scaling": 1.0, "train-loss": 3.0, "seconds": 9.0}
    )
    return Message(
        content=RecordDict({ARRAYS_KEY: adapter.to_arrays(), METRICS_KEY: metrics}),
        message_type=MessageType.TRAIN,
        dst_node_id=1,
    )
