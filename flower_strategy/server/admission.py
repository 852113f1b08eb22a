"""The first stage of a round: which devices take part, at which rank, in which cluster."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from flwr.app import Message
from flwr.serverapp import Grid

from floe_plugins.errors import FloeError
from flower_strategy.device.profile import DeviceProfile
from flower_strategy.ranks.cost import RankDecision, training_seconds, upload_seconds
from flower_strategy.server import log
from flower_strategy.server.replies import ReplyError, read_profile
from flower_strategy.server.round import Stages
from flower_strategy.server.state import Pace
from flower_strategy.theory import step_size_warning

logger = logging.getLogger("flwr")


_LOOK_AGAIN_SECONDS = 2.0
_MEASURE_AGAIN_SECONDS = 60.0
# The history has them all.
_MOST_REASONS = 20


class NoDevicesError(FloeError, RuntimeError):
    """No device can take part in the run; the message gives the devices' reasons."""


class Admission(Stages):
    """The part of `FloeStrategy` that admits devices. Every step can be overridden."""

    _reclustered_in = 0

    def admit(self, grid: Grid, timeout: float) -> None:
        """Query the profiles that are wanted; give those devices a rank and a cluster.

        Wanted are those of nodes that are new, of nodes that were left out a while ago, and of
        all nodes when they are to be clustered again. The first devices are clustered together; a
        later one joins the nearest centroid. A node whose profile is refused is asked again in
        the next round.

        A run that has begun does not hurry through its rounds while all devices are away: it
        waits for one that can train.

        Raises
        ------
        NoDevicesError
            There is no device that can train, and in a run that has begun none came in time.
        """
        end = time.monotonic() + timeout
        if self._record is self._first_record:
            self.wait_for_nodes(grid, timeout)
            self.assign_ranks()
        self.query_profiles(grid, timeout)
        begun, measured = self._record.round > 0, time.monotonic()
        while not self.able_nodes(grid):
            if not begun or time.monotonic() > end:
                self._note_left_out()
                reasons = self._record.reasons() + self.state.reasons()
                more = len(reasons) - _MOST_REASONS
                named = reasons[:_MOST_REASONS] + ([f"and {more} more"] if more > 0 else [])
                raise NoDevicesError(
                    "No device can take part: " + ("; ".join(named) or "none is connected.")
                )
            time.sleep(_LOOK_AGAIN_SECONDS)
            if time.monotonic() > measured + _MEASURE_AGAIN_SECONDS:
                before = self._record.round - 1
                self.state.left_since = {
                    node: min(since, before) for node, since in self.state.left_since.items()
                }
                self._silent_since.clear()
                measured = time.monotonic()
            self.query_profiles(grid, timeout)
        self._note_left_out()

    def _note_left_out(self) -> None:
        for node, decision in self.state.decisions.items():
            if decision.rank is None:
                self._record.left_out[node] = decision.reason

    def query_profiles(self, grid: Grid, timeout: float) -> None:
        """Query the profiles that are wanted now, and take the good ones into the run."""
        online = sorted(grid.get_node_ids())
        new = self.new_nodes(online)
        again = self.nodes_to_measure_again(online)
        recluster = self.time_to_recluster()
        asked = set(new) | set(again) | (set(online) if recluster else set())
        if not asked:
            return
        messages = self.configure_profile(sorted(asked), refresh=again)
        profiles = self.aggregate_profile(self.receive(grid, messages, timeout, stage="profile"))
        renamed = self.take_profiles(profiles, online, measured=again, embeddings_anew=recluster)
        if profiles and recluster:
            self.recluster()
            self._reclustered_in = self._record.round
        self.warn_of_step_size()
        self.note_noisier(profiles.values())
        if joined := [node for node in self.state.profiles if node in profiles]:
            log.log_devices(joined, self.state, self.rank_policy)
        if renamed and self.nodes_to_measure_again(online):
            # Under their old ids they could not be recognised as due.
            self.query_profiles(grid, timeout)

    def new_nodes(self, online: Sequence[int]) -> list[int]:
        """Return the nodes to ask for their first profile.

        One that was silent is asked again in the next round only if nobody else can train: each
        time, all others wait for it.
        """
        silent, now = self._silent_since, self._record.round
        every = max(1, self.participation.readmit_every) if self.able_among(online) else 1
        return [
            node
            for node in online
            if node not in self.state.profiles
            and (node not in silent or now - silent[node] >= every)
        ]

    def wait_for_nodes(self, grid: Grid, timeout: float) -> None:
        """Wait until enough nodes are connected, or the time is up."""
        end, needed = time.monotonic() + timeout, self.participation.min_nodes
        while (count := len(list(grid.get_node_ids()))) < needed:
            if time.monotonic() > end:
                self._note(f"The run begins with {count} nodes of the {needed} to wait for")
                return
            logger.info("Waiting for nodes: %d of %d are connected.", count, needed)
            time.sleep(_LOOK_AGAIN_SECONDS)

    def nodes_to_measure_again(self, online: Sequence[int]) -> list[int]:
        """Return the nodes that have been left out long enough to be measured again.

        Where no other is connected, nothing is gained by waiting for more rounds.
        """
        since, now = self.state.left_since, self._record.round
        every = self.participation.readmit_every
        if every and not self.able_among(online):
            every = 1
        return [node for node in online if every and now - since.get(node, now) >= every]

    def time_to_recluster(self) -> bool:
        """Return whether all devices are to be clustered again in this round."""
        every, now = self.clustering.every, self._record.round
        due = every and self.state.clusters and now > 1 and (now - 1) % every == 0
        return bool(due and self._reclustered_in < now)

    def configure_profile(
        self, nodes: Sequence[int], *, refresh: Sequence[int] = ()
    ) -> list[Message]:
        """Return the profile query, one message per node; `refresh` measure themselves anew."""
        candidates = self.rank_policy.candidates
        ranks, anew = (candidates[0], candidates[-1]), set(refresh)
        cached = [node for node in nodes if node not in anew]
        return [
            *self.envelope.profile_query(cached, ranks),
            *self.envelope.profile_query(refresh, ranks, refresh=True),
        ]

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

    def take_profiles(
        self,
        profiles: dict[int, DeviceProfile],
        online: Sequence[int],
        *,
        measured: Sequence[int] = (),
        embeddings_anew: bool = False,
    ) -> bool:
        """Take good profiles into the run: ranks for all, clusters for those that are new.

        What the run knew of a device that comes back under another node id goes on, save its
        embedding where all devices embed their texts anew.

        Parameters
        ----------
        profiles : dict[int, DeviceProfile]
            Node -> its good profile.
        online : Sequence[int]
            The nodes that are connected: their devices are not away, so none of them comes back.
        measured : Sequence[int], optional
            The nodes that were asked to measure themselves anew: those that were left out are not
            any more, until their ranks are given.
        embeddings_anew : bool (default: False)
            Whether all devices were asked to embed their texts.

        Returns
        -------
        bool
            Whether a device came back under another node id.
        """
        state = self.state
        back = self._known_by_identity(profiles, online)
        if back:
            state.rename({old: new for new, old in back.items()})
            self._note(f"{len(back)} devices came back under other node ids")
        new = [node for node in profiles if node not in state.profiles]
        again = set(measured)
        for node, profile in profiles.items():
            if node in back:
                if embeddings_anew:
                    known = state.profiles[node]
                    state.profiles[node] = replace(known, embedding=profile.embedding)
                continue
            if node in again and state.left_since.pop(node, None) is not None:
                state.paces.pop(node, None)
            state.profiles[node] = profile
        self.assign_ranks()
        if new:
            self.assign_clusters(new)
        return bool(back)

    def _known_by_identity(
        self, profiles: dict[int, DeviceProfile], online: Sequence[int]
    ) -> dict[int, int]:
        """Return new node id -> the id under which the run knew the device.

        Ids of simulated nodes differ from run to run, so a resumed run knows them by what they
        call themselves. Names that several devices give are no names.
        """
        known, there = self.state.profiles, set(online)
        new = {node: profile for node, profile in profiles.items() if node not in known}
        counts = Counter(profile.identity for profile in new.values())
        before = Counter(profile.identity for profile in known.values())
        homes = {profile.identity: node for node, profile in known.items()}
        return {
            node: homes[profile.identity]
            for node, profile in new.items()
            if profile.identity
            and counts[profile.identity] == before[profile.identity] == 1
            and homes[profile.identity] not in there
        }

    def assign_ranks(self) -> None:
        """Let the policy give each device its rank, or leave it out; log what changed."""
        state = self.state
        before = state.decisions
        state.decisions = self.rank_policy.assign(
            state.profiles, local_steps=self.training.local_steps, pace=state.pace()
        )
        for node, decision in state.decisions.items():
            if decision.rank is None:
                state.left_since.setdefault(node, self._record.round)
            else:
                state.left_since.pop(node, None)
            if node in before and before[node].rank != decision.rank:
                self._note(_rank_moved(node, before[node], decision))

    def assign_clusters(self, nodes: Sequence[int]) -> None:
        """Cluster the first nodes; put later ones to the nearest centroid.

        Where devices are clustered by their adapters, there are none at first: then all begin in
        one cluster, which is split after the first round.
        """
        together = replace(self.clustering, threshold=1.0)
        by_adapter = self.clustering.by == "adapter"
        self.state.place(nodes, together if by_adapter else self.clustering)

    def recluster(self) -> None:
        """Cluster all devices anew, by what they are clustered by."""
        by_adapter = self.clustering.by == "adapter"
        features = self.state.sketches if by_adapter else None
        before = {cluster.name: cluster.members for cluster in self.state.clusters}
        events = self.state.recluster(self.clustering, features=features)
        after = {cluster.name: cluster.members for cluster in self.state.clusters}
        moved = "the same" if before == after else "changed"
        self._note(f"Clustered again: {len(after)} clusters, members {moved}")
        for event in events:
            self._note(event)

    def correct_paces(self) -> None:
        """Learn from what the round took, then give the ranks of the next one."""
        if not self.participation.rank_correction:
            return
        state, late = self.state, self._record.late_in_training()
        for node, device in self._record.devices.items():
            if device.rank is None or node not in state.profiles:
                continue
            pace = state.paces.get(node, Pace())
            if device.observed_seconds is None:
                if node in late:
                    state.paces[node] = pace.late()
                continue
            profile = state.profiles[node]
            trained = device.observed_seconds - upload_seconds(profile, device.rank)
            steps = self.training.local_steps
            profiled = training_seconds(profile, device.rank, local_steps=steps)
            state.paces[node] = pace.observed(max(trained, 1e-9) / profiled)
        self.assign_ranks()

    def note_noisier(self, profiles: Iterable[DeviceProfile]) -> None:
        """Note devices whose embeddings have more noise than they were asked for."""
        asked = self.envelope.embedding.noise
        more = [p.embedding_noise for p in profiles if p.embedding_noise > asked]
        if more:
            self._note(
                f"{len(more)} devices keep to the noisier task embedding that they have told of "
                f"the same texts before: noise up to {max(more):g}, asked were {asked:g}"
            )

    def warn_of_step_size(self) -> None:
        """Warn where a device's loss is too rough for the learning rate, by Theorem 1."""
        roughest = max((p.smoothness for p in self.state.profiles.values()), default=0.0)
        sentence = step_size_warning(
            self.training.learning_rate, roughest, self.training.local_steps
        )
        if sentence:
            logger.warning("%s", sentence)
            self._record.notes.append(sentence)


def _rank_moved(node: int, before: RankDecision, now: RankDecision) -> str:
    was = "left out" if before.rank is None else f"rank {before.rank}"
    is_now = "left out" if now.rank is None else f"rank {now.rank}"
    return f"node {node}: {was} -> {is_now}, since {now.reason}"
