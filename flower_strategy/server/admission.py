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
from flower_strategy.profile import DeviceProfile
from flower_strategy.ranks.cost import RankDecision, training_seconds
from flower_strategy.server import log
from flower_strategy.server.links import corrected, planning_profiles
from flower_strategy.server.replies import ReplyError, read_profile
from flower_strategy.server.round import Round, Steps
from flower_strategy.server.state import Slowdown

logger = logging.getLogger("flwr")


_LOOK_AGAIN_SECONDS = 2.0
_MEASURE_AGAIN_SECONDS = 60.0
# The history keeps them all.
_MOST_REASONS = 20


class NoDevicesError(FloeError, RuntimeError):
    """No device can take part in the run; the message gives the devices' reasons."""


def admit(steps: Steps, round: Round, grid: Grid, timeout: float) -> None:
    """Query the profiles that are due; give those devices a rank and a cluster.

    Due are new nodes, nodes that were left out a while ago, and all nodes when they are clustered
    again. The first devices are clustered together; a later one joins the nearest centroid. A node
    whose profile is refused is asked again in the next round.

    A run that has started waits while no device can train, instead of spending its rounds.

    Raises
    ------
    NoDevicesError
        No device can train, and in a run that has started none became able to in time.
    """
    end = time.monotonic() + timeout
    if round.is_first:
        steps.wait_for_nodes(grid, timeout)
        steps.assign_ranks()
    steps.query_profiles(grid, timeout)
    begun, measured = round.record.round > 0, time.monotonic()
    while not steps.able_nodes(grid):
        if not begun or time.monotonic() > end:
            _note_left_out(steps, round)
            reasons = round.record.reasons() + steps.state.reasons()
            more = len(reasons) - _MOST_REASONS
            named = reasons[:_MOST_REASONS] + ([f"and {more} more"] if more > 0 else [])
            raise NoDevicesError(
                "No device can take part: " + ("; ".join(named) or "none is connected.")
            )
        time.sleep(_LOOK_AGAIN_SECONDS)
        if time.monotonic() > measured + _MEASURE_AGAIN_SECONDS:
            before = round.record.round - 1
            steps.state.left_since = {
                node: min(since, before) for node, since in steps.state.left_since.items()
            }
            round.silent_since.clear()
            measured = time.monotonic()
        steps.query_profiles(grid, timeout)
    _note_left_out(steps, round)


def _note_left_out(steps: Steps, round: Round) -> None:
    for node, decision in steps.state.decisions.items():
        if decision.rank is None:
            round.record.left_out[node] = decision.reason


def query_profiles(steps: Steps, round: Round, grid: Grid, timeout: float) -> None:
    """Query the profiles that are due now, and take the good ones into the run."""
    online = sorted(grid.get_node_ids())
    new = steps.new_nodes(online)
    again = steps.nodes_to_measure_again(online)
    recluster = steps.time_to_recluster()
    asked = set(new) | set(again) | (set(online) if recluster else set())
    if not asked:
        return
    messages = steps.configure_profile(sorted(asked), refresh=again)
    profiles = steps.aggregate_profile(steps.receive(grid, messages, timeout, stage="profile"))
    renamed = steps.take_profiles(profiles, online, measured=again, embeddings_anew=recluster)
    if profiles and recluster:
        steps.recluster()
        round.reclustered_in = round.record.round
    steps.note_noisier(profiles.values())
    if joined := [node for node in steps.state.profiles if node in profiles]:
        log.log_devices(joined, steps.state, steps.rank_policy)
    if renamed and steps.nodes_to_measure_again(online):
        # Due devices were not recognised under their old ids.
        steps.query_profiles(grid, timeout)


def new_nodes(steps: Steps, round: Round, online: Sequence[int]) -> list[int]:
    """Return the nodes to ask for their first profile.

    A silent node is asked again in the next round only if no other node can train, because all
    others wait for it each time.
    """
    silent, now = round.silent_since, round.record.round
    every = max(1, steps.participation.readmit_every) if steps.able_among(online) else 1
    return [
        node
        for node in online
        if node not in steps.state.profiles and (node not in silent or now - silent[node] >= every)
    ]


def wait_for_nodes(steps: Steps, round: Round, grid: Grid, timeout: float) -> None:
    """Wait until enough nodes are connected or the time is up."""
    end, needed = time.monotonic() + timeout, steps.participation.min_nodes
    while (count := len(list(grid.get_node_ids()))) < needed:
        if time.monotonic() > end:
            round.note(f"The run begins with {count} nodes of the {needed} to wait for")
            return
        logger.info("Waiting for nodes: %d of %d are connected.", count, needed)
        time.sleep(_LOOK_AGAIN_SECONDS)


def nodes_to_measure_again(steps: Steps, round: Round, online: Sequence[int]) -> list[int]:
    """Return the nodes that have been left out long enough to be measured again.

    If no other node is connected, they are measured again without waiting for more rounds.
    """
    since, now = steps.state.left_since, round.record.round
    every = steps.participation.readmit_every
    if every and not steps.able_among(online):
        every = 1
    return [node for node in online if every and now - since.get(node, now) >= every]


def time_to_recluster(steps: Steps, round: Round) -> bool:
    """Return whether this round clusters all devices again."""
    every, now = steps.clustering.every, round.record.round
    due = every and steps.state.clusters and now > 1 and (now - 1) % every == 0
    return bool(due and round.reclustered_in < now)


def configure_profile(
    steps: Steps, nodes: Sequence[int], *, refresh: Sequence[int] = ()
) -> list[Message]:
    """Return one profile query per node; those in `refresh` repeat their measurements."""
    candidates = steps.rank_policy.candidates
    ranks, anew = (candidates[0], candidates[-1]), set(refresh)
    cached = [node for node in nodes if node not in anew]
    return [
        *steps.envelope.profile_query(cached, ranks),
        *steps.envelope.profile_query(refresh, ranks, refresh=True),
    ]


def aggregate_profile(
    steps: Steps, round: Round, replies: Iterable[Message]
) -> dict[int, DeviceProfile]:
    """Return the valid profiles by node; refuse embeddings of another model."""
    found: dict[int, DeviceProfile] = {}
    for message in replies:
        node = message.metadata.src_node_id
        try:
            found[node] = read_profile(message)
        except ReplyError as error:
            round.refuse(node, "profile", error)
    known = steps.state.profiles or found
    sizes = Counter(len(profile.embedding) for profile in known.values())
    size = sizes.most_common(1)[0][0] if sizes else 0
    for node, profile in sorted(found.items()):
        if len(profile.embedding) != size:
            reason = f"its embedding has {len(profile.embedding)} numbers, the others' {size}."
            round.refuse(node, "profile", ReplyError(reason))
            del found[node]
    return dict(sorted(found.items()))


def take_profiles(
    steps: Steps,
    round: Round,
    profiles: dict[int, DeviceProfile],
    online: Sequence[int],
    *,
    measured: Sequence[int] = (),
    embeddings_anew: bool = False,
) -> bool:
    """Take valid profiles into the run: ranks for all devices, clusters for new ones.

    A device that comes back under another node id keeps its state, except for its embedding when
    all devices embed their texts again.

    Parameters
    ----------
    profiles : dict[int, DeviceProfile]
        Node -> its valid profile.
    online : Sequence[int]
        The connected nodes. A device that is still connected cannot come back under another id.
    measured : Sequence[int], optional
        The nodes that were asked to repeat their measurements. They no longer count as left out
        until they are given a rank.
    embeddings_anew : bool (default: False)
        Whether all devices were asked to embed their texts again.

    Returns
    -------
    bool
        Whether a device came back under another node id.
    """
    state = steps.state
    back = _known_by_identity(steps, profiles, online)
    if back:
        state.rename({old: new for new, old in back.items()})
        round.note(f"{len(back)} devices came back under other node ids")
    new = [node for node in profiles if node not in state.profiles]
    again = set(measured)
    for node, profile in profiles.items():
        if node in back:
            if embeddings_anew:
                known = state.profiles[node]
                state.profiles[node] = replace(known, embedding=profile.embedding)
            continue
        if node in again and state.left_since.pop(node, None) is not None:
            state.slowdowns.pop(node, None)
            state.links.pop(node, None)
        state.profiles[node] = profile
    steps.assign_ranks()
    if new:
        steps.assign_clusters(new)
    return bool(back)


def _known_by_identity(
    steps: Steps, profiles: dict[int, DeviceProfile], online: Sequence[int]
) -> dict[int, int]:
    """Return new node id -> the id under which the run knew the device.

    Ids of simulated nodes differ from run to run, so a resumed run recognises devices by the
    identity that they report. The run may know one device twice: a SuperNode that restarts quickly
    is there a second time before Flower takes the first for gone. It is then the one seen last. An
    identity of several devices is ignored: new ones at once, or known ones that replied in one
    round.
    """
    known, there = steps.state.profiles, set(online)
    new = {node: profile for node, profile in profiles.items() if node not in known}
    counts = Counter(profile.identity for profile in new.values() if profile.identity)
    if not counts:
        return {}
    same: dict[str, list[int]] = {}
    for node, profile in known.items():
        same.setdefault(profile.identity, []).append(node)
    replied: dict[int, set[int]] = {node: set() for node in known}
    for record in steps.state.history:
        for node, device in record.devices.items():
            if node in known and (device.train_loss, device.held_out_loss) != (None, None):
                replied[node].add(record.round)
    found = {}
    for node, profile in new.items():
        nodes = same.get(profile.identity, [])
        rounds = [replied[one] for one in nodes]
        are_one = sum(map(len, rounds)) == len(set[int]().union(*rounds))
        away = [one for one in nodes if one not in there]
        if counts[profile.identity] == 1 and are_one and away:
            # The sort is stable: of equals the last to join.
            found[node] = sorted(away, key=lambda one: max(replied[one], default=-1))[-1]
    return found


def assign_ranks(steps: Steps, round: Round) -> None:
    """Let the policy give each device a rank or leave it out; log what changed."""
    state = steps.state
    before = state.decisions
    state.decisions = steps.rank_policy.assign(
        planning_profiles(steps),
        local_steps={
            node: steps.training.steps(profile.num_examples)
            for node, profile in state.profiles.items()
        },
        pace=state.slowdown_factors(),
    )
    for node, decision in state.decisions.items():
        if decision.rank is None:
            state.left_since.setdefault(node, round.record.round)
        else:
            state.left_since.pop(node, None)
        if node in before and before[node].rank != decision.rank:
            round.note(_rank_moved(node, before[node], decision))


def assign_clusters(steps: Steps, nodes: Sequence[int]) -> None:
    """Cluster the first nodes; assign later ones to the nearest centroid.

    With ``cluster-by='adapter'`` there are no adapters to compare yet: all devices start in one
    cluster, which is split after the first round.
    """
    together = replace(steps.clustering, threshold=1.0)
    by_adapter = steps.clustering.by == "adapter"
    steps.state.place(nodes, together if by_adapter else steps.clustering)


def recluster(steps: Steps, round: Round) -> None:
    """Cluster all devices again, by embedding or by adapter as configured."""
    by_adapter = steps.clustering.by == "adapter"
    features = steps.state.sketches if by_adapter else None
    before = {cluster.name: cluster.members for cluster in steps.state.clusters}
    events = steps.state.recluster(steps.clustering, features=features)
    after = {cluster.name: cluster.members for cluster in steps.state.clusters}
    moved = "the same" if before == after else "changed"
    round.note(f"Clustered again: {len(after)} clusters, members {moved}")
    for event in events:
        round.note(event)


def correct_slowdowns(steps: Steps, round: Round) -> None:
    """Update slowdowns and links from the round's timings, then assign the next round's ranks."""
    if not steps.participation.rank_correction:
        return
    state, late = steps.state, round.record.late_in_training()
    for node, device in round.record.devices.items():
        if device.rank is None or node not in state.profiles:
            continue
        slowdown = state.slowdowns.get(node, Slowdown())
        if device.observed_seconds is None:
            if node in late:
                state.slowdowns[node] = slowdown.late()
            continue
        profile = state.profiles[node]
        if device.transfer_measured:
            state.links[node] = corrected(state.links.get(node), device, profile)
        trained = device.observed_seconds - (device.transfer_seconds or 0.0)
        profiled = training_seconds(profile, device.rank, local_steps=device.steps)
        state.slowdowns[node] = slowdown.observed(max(trained, 1e-9) / profiled)
    steps.assign_ranks()


def prepare_next_round(steps: Steps, round: Round) -> None:
    """Correct the slowdowns; split the clusters once there are adapters to split by."""
    steps.correct_slowdowns()
    state = steps.state
    learned = {node: each for node, each in state.sketches.items() if state.has_sketch(node)}
    # A round of a warm-up may have a learning rate of 0, in which nobody learns.
    enough = learned and 2 * len(learned) >= len(state.sketches)
    if steps.clustering.by == "adapter" and enough and not state.split_by_adapter:
        state.sketches = learned
        able = sum(decision.rank is not None for decision in state.decisions.values())
        if len(state.sketches) < able:
            note = f"Split by the adapters of {len(state.sketches)} of {able} devices, once"
            logger.warning("%s: the others' did not come in the first round.", note)
            round.record.notes.append(note)
        steps.recluster()
        state.split_by_adapter = True
    for record in state.history[:-1]:
        # A thousand numbers a round: the metrics have them, the history only its last.
        for outcome in record.clusters.values():
            outcome.discarded_by_layer = {}


def note_noisier(steps: Steps, round: Round, profiles: Iterable[DeviceProfile]) -> None:
    """Note devices whose embeddings carry more noise than requested."""
    asked = steps.envelope.embedding.noise
    more = [p.embedding_noise for p in profiles if p.embedding_noise > asked]
    if more:
        round.note(
            f"{len(more)} devices keep to the noisier task embedding that they have sent for "
            f"the same texts before: noise up to {max(more):g}, asked were {asked:g}"
        )


def _rank_moved(node: int, before: RankDecision, now: RankDecision) -> str:
    was = "left out" if before.rank is None else f"rank {before.rank}"
    is_now = "left out" if now.rank is None else f"rank {now.rank}"
    return f"node {node}: {was} -> {is_now}, since {now.reason}"
