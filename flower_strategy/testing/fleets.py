"""A strategy between two rounds, and synthetic devices that answer it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from flower_strategy import FloeStrategy
from flower_strategy.adapters import int8
from flower_strategy.adapters.adapter import AdapterState, LoraFactors, initial_adapter
from flower_strategy.clusters import Cluster
from flower_strategy.messages import ARRAYS_KEY, BEGAN_KEY, METRICS_KEY
from flower_strategy.ranks.cost import RankDecision
from flower_strategy.ranks.policies import DeadlinePolicy
from flower_strategy.server.records import RoundRecord
from flower_strategy.server.round import Round
from flower_strategy.server.state import RunState
from flower_strategy.settings import ReplyRules, TrainingSettings
from flower_strategy.testing.grids import InProcessGrid
from flower_strategy.testing.models import make_profile

SHAPES = {"block.0.up_proj": (48, 32), "block.0.down_proj": (32, 48)}
STEPS, RATE = 3, 2e-3


class NodesGrid(InProcessGrid):
    """Lists the nodes; the test itself passes the messages."""

    def __init__(self, nodes: Sequence[int]) -> None:
        self._nodes = nodes

    def get_node_ids(self) -> Sequence[int]:
        return self._nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError


class Fleet:
    """A strategy between two rounds, and synthetic devices of given ranks.

    With `own` they keep adapters of their own, and reply with all that these have learned.

    Nothing is trained: an update moves every entry of both factors, as AdamW's first steps do, by a
    device's own share of the requested change. `update_norms_test` measures real training.
    """

    def __init__(
        self,
        ranks: Sequence[int],
        *,
        seed: int = 0,
        alpha: float = 0.0,
        rslora: bool = False,
        clusters: Sequence[Sequence[int]] | None = None,
        limit: float = 10.0,
        examples: Mapping[int, int] | None = None,
        own: bool = False,
    ) -> None:
        self.own: dict[int, AdapterState] | None = {} if own else None
        self.forgets = False
        self.nodes = list(range(len(ranks)))
        self.random = np.random.default_rng(seed)
        self.strategy = FloeStrategy(
            training=TrainingSettings(
                model="none",
                local_steps=STEPS,
                learning_rate=RATE,
                alpha=alpha,
                rslora=rslora,
            ),
            rank_policy=DeadlinePolicy(candidates=sorted(set(ranks))),
            replies=ReplyRules(norm_limit=limit),
        )
        initial = initial_adapter(SHAPES, rank=self.strategy.server_rank, seed=seed)
        state = RunState(initial=initial)
        counts = examples or {}
        state.profiles = {
            node: make_profile(num_examples=counts.get(node, 100), keeps_state=own)
            for node in self.nodes
        }
        state.decisions = {
            node: RankDecision(rank, 1.0, "it fits") for node, rank in enumerate(ranks)
        }
        middle = state.profiles[0].embedding
        state.clusters = [
            Cluster(f"cluster-{index}", middle, tuple(members))
            for index, members in enumerate(clusters or [self.nodes])
        ]
        state.cluster_adapters = {cluster.name: initial for cluster in state.clusters}
        self.strategy.state = state

    def round(
        self,
        shares: Mapping[int, float],
        *,
        order: Sequence[int] | None = None,
        change: Callable[[int, MetricRecord], None] | None = None,
        num_rounds: int = 0,
    ) -> RoundRecord:
        """Train a round with node -> share of the requested change per entry; return its record."""
        strategy, state = self.strategy, self.strategy.state
        number = len(state.history) + 1
        record = RoundRecord(round=number)
        strategy.round = Round(record=record, num_rounds=num_rounds)
        state.history.append(record)
        messages = {
            message.metadata.dst_node_id: message
            for message in strategy.configure_train(
                number, state.to_arrays(), ConfigRecord(), NodesGrid(self.nodes)
            )
        }

        def replies() -> Iterator[Message]:
            for node in order or sorted(messages):
                reply = self._reply(messages[node], shares[node], (number, node))
                if change is not None:
                    change(node, reply.content.metric_records[METRICS_KEY])
                yield reply

        strategy.aggregate_train(number, replies())
        return record

    def _reply(self, message: Message, share: float, seed: tuple[int, int]) -> Message:
        InProcessGrid.taken(message)
        # The message's adapter, without the time to decode it.
        node = message.metadata.dst_node_id
        adapter = self.strategy.round.sent[node].adapter
        if self.own is not None:
            initial = self.strategy.state.initial.resized(adapter.rank)
            adapter = self.own.get(node, initial.with_scaling(adapter.scaling))
        scaling = adapter.scaling
        random, move = np.random.default_rng(seed), share * STEPS * RATE
        layers = {
            name: LoraFactors(
                b=(f.b + move * random.choice((-1, 1), f.b.shape)).astype(np.float32),
                # B starts at zero and A moves later, so a long update is long in B.
                a=(f.a + min(move, 0.01) * random.choice((-1, 1), f.a.shape)).astype(np.float32),
            )
            for name, f in adapter.layers.items()
        }
        numbers = {"num-examples": 100, "scaling": scaling, "train-loss": 2.0, "seconds": 1.0}
        trained = AdapterState(layers, scaling)
        arrays = trained.to_arrays()
        if self.own is not None:
            arrays = int8.encode(trained)
            numbers["steps"], numbers[BEGAN_KEY] = STEPS, 1
            if not self.forgets:
                self.own[node] = trained
        content = RecordDict(
            {
                ARRAYS_KEY: arrays,
                METRICS_KEY: MetricRecord(numbers),  # type: ignore[arg-type]
            }
        )
        return Message(content=content, reply_to=message)

    def adapter(self, cluster: str = "cluster-0") -> np.ndarray[Any, Any]:
        """Return all weight changes of a cluster's adapter in one row."""
        adapter = self.strategy.state.cluster_adapters[cluster]
        return np.concatenate([adapter.delta(layer).ravel() for layer in SHAPES])
