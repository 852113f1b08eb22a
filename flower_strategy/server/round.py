"""The state of the current round, and the steps of a strategy that its stages call."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from flwr.app import Message
from flwr.serverapp import Grid

from flower_strategy.adapters.mean import AdapterMean
from flower_strategy.messages import Envelope
from flower_strategy.profile import DeviceProfile, device_text
from flower_strategy.ranks.cost import RankPolicy
from flower_strategy.server.exchange import Patience, drop_late, exchange
from flower_strategy.server.records import DeviceRound, Refusal, RoundRecord
from flower_strategy.server.replies import ReplyError, Sent
from flower_strategy.server.state import RunState
from flower_strategy.server.uploads import UploadStore
from flower_strategy.settings import (
    ClusteringSettings,
    Participation,
    ReplyRules,
    TrainingSettings,
)

logger = logging.getLogger("flwr")

_PROFILE_SECONDS = 60.0
_LONGEST_REASON = 500


@dataclass(kw_only=True, eq=False)
class Round:
    """The state of one round.

    Attributes
    ----------
    record : RoundRecord
        What has happened so far.
    num_rounds : int (default: 1)
        Rounds of the run.
    is_first : bool (default: True)
        Whether this is the first round of this process; true in a resumed run as well.
    sent : dict[int, Sent]
        Node -> what it was sent to train, until its reply arrives.
    accepted : set[int]
        Nodes whose trained adapters count in this round.
    absent : set[int]
        Nodes that have sent an adapter before and cannot train in this round.
    seen_seconds : dict[int, float]
        Node -> seconds from the push of its message to train until its reply was there.
    anchors : dict[str, str]
        Cluster -> file of its adapter before this round, on which devices begin.
    most_steps : float
        Most steps that a device weighs.
    silent_since : dict[int, int]
        Node -> the round in which it did not answer the profile query.
    late_messages : set[str]
        Messages of this and earlier rounds whose replies are no longer awaited.
    reclustered_in : int (default: 0)
        The last round that clustered all devices again.
    """

    record: RoundRecord
    num_rounds: int = 1
    is_first: bool = True
    sent: dict[int, Sent] = field(default_factory=dict)
    accepted: set[int] = field(default_factory=set)
    absent: set[int] = field(default_factory=set)
    seen_seconds: dict[int, float] = field(default_factory=dict)
    anchors: dict[str, str] = field(default_factory=dict)
    most_steps: float = math.inf
    silent_since: dict[int, int] = field(default_factory=dict)
    late_messages: set[str] = field(default_factory=set)
    reclustered_in: int = 0

    def following(self, number: int) -> Round:
        """Return the next round; it keeps the silent nodes and the late messages."""
        return Round(
            record=RoundRecord(round=number),
            num_rounds=self.num_rounds,
            is_first=False,
            silent_since=self.silent_since,
            late_messages=self.late_messages,
            reclustered_in=self.reclustered_in,
        )

    def device(self, node: int, state: RunState) -> DeviceRound:
        """Return a device's part of the record, creating it on the first call."""
        if node not in self.record.devices:
            self.record.devices[node] = DeviceRound(cluster=state.cluster_of(node).name)
        return self.record.devices[node]

    def refuse(self, node: int, stage: str, error: ReplyError) -> None:
        """Log and record a reply that is not used."""
        reason = device_text(error, most=_LONGEST_REASON)
        logger.warning("Refused the %s reply of node %d: %s", stage, node, reason)
        self.record.refused.append(Refusal(node, stage, reason))

    def late(self, node: int, stage: str, reason: str) -> None:
        """Log and record that a node did not reply in time."""
        logger.warning("Node %d is late in %s: %s", node, stage, reason)
        self.record.refused.append(Refusal(node, stage, reason, late=True))
        if stage == "profile":
            self.silent_since[node] = self.record.round

    def note(self, event: str) -> None:
        """Log and record what else happened."""
        logger.info("\t├──> %s", event)
        self.record.notes.append(event)


# `FloeStrategy` documents the steps.
# ruff: noqa: D102
class Steps(Protocol):
    """The settings of a strategy, and its steps that other steps call.

    The functions of this folder call the steps on the strategy, so that overridden steps run.
    """

    training: TrainingSettings
    envelope: Envelope
    rank_policy: RankPolicy
    clustering: ClusteringSettings
    participation: Participation
    rules: ReplyRules
    export_rank: int
    state: RunState
    uploads: UploadStore

    @property
    def server_rank(self) -> int: ...

    def receive(
        self, grid: Grid, messages: Sequence[Message], timeout: float, *, stage: str
    ) -> Iterator[Message]: ...

    def patience(self, grid: Grid, timeout: float, *, stage: str) -> Patience: ...

    def able_nodes(self, grid: Grid) -> list[int]: ...

    def able_among(self, nodes: Iterable[int]) -> list[int]: ...

    def wait_for_nodes(self, grid: Grid, timeout: float) -> None: ...

    def query_profiles(self, grid: Grid, timeout: float) -> None: ...

    def new_nodes(self, online: Sequence[int]) -> list[int]: ...

    def nodes_to_measure_again(self, online: Sequence[int]) -> list[int]: ...

    def time_to_recluster(self) -> bool: ...

    def configure_profile(
        self, nodes: Sequence[int], *, refresh: Sequence[int] = ()
    ) -> list[Message]: ...

    def aggregate_profile(self, replies: Iterable[Message]) -> dict[int, DeviceProfile]: ...

    def take_profiles(
        self,
        profiles: dict[int, DeviceProfile],
        online: Sequence[int],
        *,
        measured: Sequence[int] = (),
        embeddings_anew: bool = False,
    ) -> bool: ...

    def assign_ranks(self) -> None: ...

    def assign_clusters(self, nodes: Sequence[int]) -> None: ...

    def recluster(self) -> None: ...

    def correct_slowdowns(self) -> None: ...

    def note_noisier(self, profiles: Iterable[DeviceProfile]) -> None: ...

    def asked_move(
        self,
        training: TrainingSettings,
        *,
        num_examples: int,
        server_round: int,
        num_rounds: int,
    ) -> float: ...

    def new_mean(self) -> AdapterMean: ...

    def move_adapters(self, means: dict[str, AdapterMean]) -> None: ...

    def most_tokens(self, node: int) -> int: ...


def receive(
    steps: Steps,
    round: Round,
    grid: Grid,
    messages: Sequence[Message],
    timeout: float,
    *,
    stage: str,
) -> Iterator[Message]:
    """Send messages and yield the replies as they arrive; record the nodes that did not reply."""
    drop_late(grid, round.late_messages)
    return exchange(
        grid,
        messages,
        patience=steps.patience(grid, timeout, stage=stage),
        missing=lambda node, reason: round.late(node, stage, reason),
        gone=lambda node, reason: round.refuse(node, stage, ReplyError(reason)),
        late=round.late_messages,
        arrived=round.seen_seconds.__setitem__ if stage == "train" else None,
    )


def patience(steps: Steps, grid: Grid, timeout: float, *, stage: str) -> Patience:
    """Return how long a stage waits.

    Measuring takes longer than a round's work, so profiles get a grace of at least a minute. Once
    some devices can train, they wait no longer than that for the profiles of others.
    """
    part = steps.participation
    if stage != "profile":
        return Patience(timeout=timeout, quorum=part.quorum, grace=part.quorum_grace)
    grace = max(part.quorum_grace, _PROFILE_SECONDS)
    if steps.able_nodes(grid):
        timeout = min(timeout, grace)
    return Patience(timeout=timeout, quorum=part.quorum, grace=grace)
