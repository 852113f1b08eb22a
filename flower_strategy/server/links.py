"""Links as the server measures them, of which ``bandwidth-mbps`` is the first guess."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from flower_strategy.profile import SIMULATED_IDENTITY, DeviceProfile
from flower_strategy.ranks.cost import RankPolicy, transfer_seconds
from flower_strategy.server.records import DeviceRound
from flower_strategy.server.replies import TrainReply
from flower_strategy.server.round import Steps
from flower_strategy.server.state import Slowdown

_REFERENCE = 1e6
"""Bytes a second that a factor refers to where a device names no bandwidth."""


def measure(
    device: DeviceRound, profile: DeviceProfile, reply: TrainReply, seen: float | None
) -> None:
    """Record a reply's seconds: those that the server saw, if it can tell them from training.

    What is left of them beside the device's own training is transport. It includes waiting that no
    byte explains: clients ask for messages every few seconds, and may start a process for each.

    Seconds of simulated devices are virtual; they are known by their identity. A device that calls
    itself simulated, sends no ``training-seconds``, or claims more of them than have passed is
    taken at its word, as are devices of a grid in this process, which work before the clock starts.

    Parameters
    ----------
    device : DeviceRound
        Its part of the record, changed in place; its bytes are there already.
    profile : DeviceProfile
        Its profile.
    reply : TrainReply
        Its reply.
    seen : float or None
        Seconds between the message's push and the reply's arrival.
    """
    trained = reply.training_seconds
    real = not profile.identity.startswith(SIMULATED_IDENTITY)
    if real and seen is not None and trained is not None and trained < seen:
        device.observed_seconds, device.transfer_seconds = seen, seen - trained
        device.transfer_measured = True
        return
    device.observed_seconds = reply.seconds
    device.transfer_seconds = transfer_seconds(
        profile, bytes_up=device.bytes_up, bytes_down=device.bytes_down
    )


def corrected(link: Slowdown | None, device: DeviceRound, profile: DeviceProfile) -> Slowdown:
    """Return a link's slowdown after a round whose transport was measured.

    It moves by the rules of the pace. The first round of a device that names no bandwidth counts at
    once: there is no guess that could be right.
    """
    guess = replace(profile, bandwidth=_guess(profile))
    usual = transfer_seconds(guess, bytes_up=device.bytes_up, bytes_down=device.bytes_down)
    if link is None and math.isinf(profile.bandwidth):
        # From a factor of next to nothing, every ratio takes effect immediately.
        link = Slowdown(0.0)
    return (link or Slowdown()).observed((device.transfer_seconds or 0.0) / usual)


def with_links(
    profiles: Mapping[int, DeviceProfile], links: Mapping[int, Slowdown]
) -> dict[int, DeviceProfile]:
    """Return the profiles with the bandwidths that ranks, steps and predictions go by.

    Such a bandwidth is what a device's bytes got through, waiting included. It is exact for
    adapters like those measured; at a smaller rank the waiting stays, so it promises too much.
    """
    return {
        node: replace(profile, bandwidth=max(1.0, _guess(profile) / links[node].factor))
        if node in links
        else profile
        for node, profile in profiles.items()
    }


def planning_profiles(steps: Steps) -> dict[int, DeviceProfile]:
    """Return the profiles that ranks and steps are planned with.

    They have the bandwidths of `deadline_links`, and the rank at which the cluster's adapter comes
    down at least: what is fixed on a device need not be as small as what it trains.
    """
    state = steps.state
    profiles = with_links(state.profiles, deadline_links(steps.rank_policy, state.links))
    return {
        node: profile
        if not state.keeps_state(node)
        else replace(profile, download_rank=steps.export_rank)
        for node, profile in profiles.items()
    }


def deadline_links(policy: RankPolicy, links: Mapping[int, Slowdown]) -> Mapping[int, Slowdown]:
    """Return the links that a policy's deadline is to be met with.

    An automatic deadline is a sum of predicted seconds, without the waiting that is measured later:
    taken from it, a wait of a few seconds would leave short rounds no step.
    """
    return {} if getattr(policy, "automatic", False) else links


def _guess(profile: DeviceProfile) -> float:
    return _REFERENCE if math.isinf(profile.bandwidth) else profile.bandwidth
