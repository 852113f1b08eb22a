"""The first steps of a run: which devices take part, at which rank, in which cluster."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from flwr.app import Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from floe_plugins.errors import FloeError
from flower_strategy import reporting
from flower_strategy.clustering import ClusteringSettings
from flower_strategy.exchange import exchange
from flower_strategy.messages import Envelope
from flower_strategy.profiles import DeviceProfile
from flower_strategy.ranks import RankPolicy
from flower_strategy.replies import ReplyError, read_profile
from flower_strategy.state import DeviceRound, Refusal, RoundRecord, RunState

logger = logging.getLogger("flwr")


class NoDevicesError(FloeError, RuntimeError):
    """No device can take part in the run; the message gives every device's reason."""


class Admission(Strategy):
    """The part of `FloeStrategy` that admits devices. Every step can be overridden.

    Attributes
    ----------
    envelope : Envelope
        Settings that go with every message.
    rank_policy : RankPolicy
        Gives each device its rank.
    clustering : ClusteringSettings
        How devices are split.
    min_nodes : int
        Nodes to wait for before the run begins.
    state : RunState
        The run so far.
    """

    envelope: Envelope
    rank_policy: RankPolicy
    clustering: ClusteringSettings
    min_nodes: int
    state: RunState
    _record: RoundRecord

    def admit(self, grid: Grid, timeout: float) -> None:
        """Query the profile of every node that is new, give it a rank and a cluster.

        The first devices are clustered together; a later one joins the nearest centroid. A node
        whose profile is refused is asked again in the next round.

        Raises
        ------
        NoDevicesError
            There is no device that can train.
        """
        if not self.state.profiles:
            self.wait_for_nodes(grid, timeout)
        new = [node for node in sorted(grid.get_node_ids()) if node not in self.state.profiles]
        if new:
            replies = self.receive(grid, self.configure_profile(new), timeout, stage="profile")
            profiles = self.aggregate_profile(replies)
            self.state.profiles |= profiles
            self.assign_ranks(list(profiles))
            self.assign_clusters(list(profiles))
            if profiles:
                reporting.log_devices(profiles, self.state, self.rank_policy)
        if not any(decision.rank for decision in self.state.decisions.values()):
            reasons = self._record.reasons() + self.state.reasons()
            raise NoDevicesError(
                "No device can take part: " + ("; ".join(reasons) or "none is connected.")
            )

    def wait_for_nodes(self, grid: Grid, timeout: float) -> None:
        """Wait until `min_nodes` nodes are connected, or the time is up."""
        end = time.monotonic() + timeout
        while (count := len(list(grid.get_node_ids()))) < self.min_nodes:
            if time.monotonic() > end:
                return
            logger.info("Waiting for nodes: %d of %d are connected.", count, self.min_nodes)
            time.sleep(2.0)

    def configure_profile(self, nodes: Sequence[int]) -> list[Message]:
        """Return the profile query, one message per node."""
        candidates = self.rank_policy.candidates
        return self.envelope.profile_query(nodes, (candidates[0], candidates[-1]))

    def aggregate_profile(self, replies: Iterable[Message]) -> dict[int, DeviceProfile]:
        """Return the good profiles by node; embeddings of another model are refused."""
        found: dict[int, DeviceProfile] = {}
        for message in replies:
            node = message.metadata.src_node_id
            try:
                found[node] = read_profile(message)
            except ReplyError as error:
                self._refuse(node, "profile", error)
        known = self.state.profiles or found
        sizes = Counter(len(profile.embedding) for profile in known.values())
        size = sizes.most_common(1)[0][0] if sizes else 0
        for node, profile in sorted(found.items()):
            if len(profile.embedding) != size:
                reason = f"its embedding has {len(profile.embedding)} numbers, the others' {size}."
                self._refuse(node, "profile", ReplyError(reason))
                del found[node]
        return dict(sorted(found.items()))

    def assign_ranks(self, nodes: Sequence[int]) -> None:
        """Let the policy give each of these nodes its rank, or leave it out."""
        self.state.decisions |= self.rank_policy.assign(
            {node: self.state.profiles[node] for node in nodes},
            local_steps=self.envelope.training.local_steps,
        )

    def assign_clusters(self, nodes: Sequence[int]) -> None:
        """Cluster the first nodes; put later ones to the nearest centroid."""
        if nodes:
            self.state.place(nodes, self.clustering)

    def receive(
        self, grid: Grid, messages: Sequence[Message], timeout: float, *, stage: str
    ) -> Iterator[Message]:
        """Send messages and yield the replies as they arrive; note who did not reply."""
        return exchange(
            grid,
            messages,
            timeout=timeout,
            missing=lambda node: self._refuse(
                node, stage, ReplyError(f"no reply within {timeout:g} s.")
            ),
        )

    def _device(self, node: int) -> DeviceRound:
        if node not in self._record.devices:
            self._record.devices[node] = DeviceRound(cluster=self.state.cluster_of(node).name)
        return self._record.devices[node]

    def _refuse(self, node: int, stage: str, error: ReplyError) -> None:
        logger.warning("Refused the %s reply of node %d: %s", stage, node, error)
        self._record.refused.append(Refusal(node, stage, str(error)))
