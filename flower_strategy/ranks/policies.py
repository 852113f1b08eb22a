"""The built-in rank policies: deadline, memory, fixed, uniform-min."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from floe_plugins.errors import ConfigError
from flower_strategy.config import RunConfig
from flower_strategy.config_keys import EXPORT_RANKS, split_list
from flower_strategy.profile import DeviceProfile
from flower_strategy.ranks.cost import RankDecision, RankPolicy, memory_needed, predicted_seconds
from flower_strategy.ranks.plugin_policy import plugin_policy
from flower_strategy.ranks.steps import FilledRounds, learning

_LONGER_PERCENT = 25
"""How much longer than its slowest device needs an automatic deadline may be."""

_LITTLE_IDLE = 0.05
"""The share of a round that each device may wait without another deadline being tried."""

_MOST_FITTED = 100
"""Devices that an automatic deadline is fitted to; of more, so many are taken."""


class DeadlinePolicy:
    """The rank whose round fits the deadline and whose memory fits the device.

    Where devices take as many steps as the deadline leaves them, it is the one of these ranks that
    learns most in them, see `learning`: a smaller rank uploads sooner and may buy a step. Where the
    number of steps is given, it is the largest.

    A round at rank r takes ``slowdown * steps * (a + b r)`` seconds of training, with a and b
    fitted to the device's two measured ranks, and those of upload and download; see
    `predicted_seconds`.

    Parameters
    ----------
    candidates : Sequence[int]
        The ranks to choose from.
    deadline : float, optional
        Seconds that a round may take. None derives it from the first profiles: the time of the
        smallest rank on the slowest device that can hold it. No device is then ever left out for
        its speed, and the others use the time that they would spend waiting. Steps are whole, so
        a device may wait for most of one; with `filled` the deadline is therefore up to a quarter
        longer, where that leaves devices less time to wait.
    filled : FilledRounds, optional
        How devices fill what the deadline leaves them with steps; None if their number is given.
    """

    name = "deadline"

    def __init__(
        self,
        *,
        candidates: Sequence[int],
        deadline: float | None = None,
        filled: FilledRounds | None = None,
    ) -> None:
        self.candidates = tuple(sorted(candidates))
        self.deadline = deadline
        self.filled = filled
        self.automatic = deadline is None

    def assign(
        self,
        profiles: Mapping[int, DeviceProfile],
        *,
        local_steps: Mapping[int, int],
        pace: Mapping[int, float],
    ) -> dict[int, RankDecision]:
        """Return one decision per profile; see `RankPolicy.assign`."""
        if self.deadline is None:
            self.deadline = self._automatic_deadline(profiles, local_steps)
        return self._decisions(profiles, local_steps, pace, self.deadline)

    def _decisions(
        self,
        profiles: Mapping[int, DeviceProfile],
        local_steps: Mapping[int, int],
        pace: Mapping[int, float],
        seconds: float | None,
    ) -> dict[int, RankDecision]:
        deadline = math.inf if seconds is None else seconds
        decisions = {
            node: _largest(
                profile,
                self.candidates,
                local_steps=local_steps[node],
                deadline=deadline,
                smallest_always=self.automatic,
                slowdown=pace.get(node, 1.0),
            )
            for node, profile in profiles.items()
        }
        if self.filled is not None and seconds is not None:
            for node, largest in decisions.items():
                decisions[node] = _most_learning(
                    profiles[node],
                    largest,
                    [rank for rank in self.candidates if rank <= (largest.rank or 0)],
                    self.filled,
                    local_steps=local_steps[node],
                    deadline=deadline,
                    slowdown=pace.get(node, 1.0),
                )
        return decisions

    def _automatic_deadline(
        self, profiles: Mapping[int, DeviceProfile], local_steps: Mapping[int, int]
    ) -> float | None:
        """Return what the slowest device needs, or the better length a little above it."""
        smallest = self.candidates[0]
        needed = {
            node: predicted_seconds(profile, smallest, local_steps=local_steps[node])
            for node, profile in profiles.items()
            if memory_needed(profile, smallest) <= profile.memory_bytes
        }
        if not needed:
            return None
        slowest = max(needed, key=lambda node: needed[node])
        if self.filled is None:
            return needed[slowest]
        every = math.ceil(len(needed) / _MOST_FITTED)
        some = {node: profiles[node] for node in [*list(needed)[::every], slowest]}
        best, least = needed[slowest], math.inf
        for percent in range(_LONGER_PERCENT + 1):
            deadline = needed[slowest] * (1 + percent / 100)
            idle = self._idle(some, local_steps, deadline, self.filled)
            if max(idle) <= _LITTLE_IDLE:
                return deadline
            if (waste := math.fsum(share**2 for share in idle)) < least:
                best, least = deadline, waste
        return best

    def _idle(
        self,
        profiles: Mapping[int, DeviceProfile],
        local_steps: Mapping[int, int],
        deadline: float,
        filled: FilledRounds,
    ) -> list[float]:
        """Return which share of a round each device would wait for the longest one."""
        busy = []
        for node, decision in self._decisions(profiles, local_steps, {}, deadline).items():
            rank = decision.rank or self.candidates[0]
            steps = filled.steps(profiles[node], rank, deadline=deadline)
            busy.append(predicted_seconds(profiles[node], rank, local_steps=steps))
        return [1 - seconds / max(busy) for seconds in busy]


class MemoryPolicy:
    """The largest rank whose memory fits the device, however long its rounds take.

    Parameters
    ----------
    candidates : Sequence[int]
        The ranks to choose from.
    """

    name = "memory"
    deadline: float | None = None

    def __init__(self, *, candidates: Sequence[int]) -> None:
        self.candidates = tuple(sorted(candidates))

    def assign(
        self,
        profiles: Mapping[int, DeviceProfile],
        *,
        local_steps: Mapping[int, int],
        pace: Mapping[int, float],
    ) -> dict[int, RankDecision]:
        """Return one decision per profile; see `RankPolicy.assign`."""
        return {
            node: _largest(
                profile,
                self.candidates,
                local_steps=local_steps[node],
                slowdown=pace.get(node, 1.0),
            )
            for node, profile in profiles.items()
        }


class FixedPolicy:
    """The rank that the configuration names, for all or for each device class.

    It does not check memory: a device that cannot hold its rank replies with an error.

    Parameters
    ----------
    ranks : Mapping[str, int]
        Device class -> rank; the class ``""`` stands for all others.
    """

    name = "fixed"
    deadline: float | None = None

    def __init__(self, *, ranks: Mapping[str, int]) -> None:
        self.ranks = dict(ranks)
        self.candidates = tuple(sorted(set(self.ranks.values())))

    def assign(
        self,
        profiles: Mapping[int, DeviceProfile],
        *,
        local_steps: Mapping[int, int],
        pace: Mapping[int, float],
    ) -> dict[int, RankDecision]:
        """Return one decision per profile; see `RankPolicy.assign`."""
        decisions = {}
        for node, profile in profiles.items():
            rank = self.ranks.get(profile.device, self.ranks.get(""))
            seconds = predicted_seconds(
                profile,
                rank or self.candidates[0],
                local_steps=local_steps[node],
                slowdown=pace.get(node, 1.0),
            )
            reason = (
                f"fixed-ranks names no rank for class {profile.device!r}"
                if rank is None
                else "fixed-ranks says so"
            )
            decisions[node] = RankDecision(rank, seconds, reason)
        return decisions


class UniformMinPolicy:
    """One rank for all: the largest that every device affords.

    Parameters
    ----------
    candidates : Sequence[int]
        The ranks to choose from.
    deadline : float, optional
        As in `DeadlinePolicy`.
    """

    name = "uniform-min"

    def __init__(self, *, candidates: Sequence[int], deadline: float | None = None) -> None:
        self.affords = DeadlinePolicy(candidates=candidates, deadline=deadline)
        self.candidates = self.affords.candidates

    @property
    def automatic(self) -> bool:
        """Whether the deadline follows from the first profiles."""
        return self.affords.automatic

    @property
    def deadline(self) -> float | None:
        """Seconds that a round may take."""
        return self.affords.deadline

    @deadline.setter
    def deadline(self, seconds: float | None) -> None:
        self.affords.deadline = seconds

    def assign(
        self,
        profiles: Mapping[int, DeviceProfile],
        *,
        local_steps: Mapping[int, int],
        pace: Mapping[int, float],
    ) -> dict[int, RankDecision]:
        """Return one decision per profile; see `RankPolicy.assign`."""
        own = self.affords.assign(profiles, local_steps=local_steps, pace=pace)
        common = min((d.rank for d in own.values() if d.rank is not None), default=None)
        if common is None:
            return own
        return {
            node: decision
            if decision.rank is None
            else RankDecision(
                common,
                predicted_seconds(
                    profiles[node],
                    common,
                    local_steps=local_steps[node],
                    slowdown=pace.get(node, 1.0),
                ),
                "it is the largest that all afford",
            )
            for node, decision in own.items()
        }


def policy_from_config(config: RunConfig) -> RankPolicy:
    """Return the policy that a run configuration names: built-in, or a plugin's.

    Raises
    ------
    ConfigError
        ``fixed-ranks`` is missing or malformed, or no plugin registers the policy.
    FloeError
        A plugin cannot make its policy.
    """
    deadline = config.round_deadline or None
    if config.rank_policy == "memory":
        return MemoryPolicy(candidates=config.ranks)
    if config.rank_policy == "fixed":
        return FixedPolicy(ranks=parse_fixed_ranks(config.fixed_ranks))
    if config.rank_policy == "uniform-min":
        return UniformMinPolicy(candidates=config.ranks, deadline=deadline)
    if config.rank_policy == "deadline":
        return DeadlinePolicy(
            candidates=config.ranks,
            deadline=deadline,
            filled=_filled(config),
        )
    return plugin_policy(config)


def _filled(config: RunConfig) -> FilledRounds | None:
    if config.epochs or not config.fill_deadline:
        return None
    return FilledRounds(
        most_epochs=config.max_epochs,
        batch_size=config.batch_size * config.gradient_accumulation_steps,
        rounds=config.rounds,
    )


def parse_fixed_ranks(text: str) -> dict[str, int]:
    """Return device class -> rank; the class ``""`` stands for all others.

    Raises
    ------
    ConfigError
        The text is neither a rank nor a list of CLASS:RANK, or a rank is out of range.
    """
    ranks: dict[str, int] = {}
    most = max(EXPORT_RANKS)
    for item in split_list(text):
        name, _, number = item.rpartition(":")
        if not number.isdigit() or not 1 <= int(number) <= most or name in ranks:
            ranks.clear()
            break
        ranks[name] = int(number)
    if not ranks:
        raise ConfigError(
            f"Run configuration fixed-ranks={text!r} is not accepted: with rank-policy 'fixed' it "
            f"must be one rank for all or CLASS:RANK for each device class, separated by commas, "
            f"with ranks from 1 to {most}."
        )
    return ranks


def _largest(
    profile: DeviceProfile,
    candidates: Sequence[int],
    *,
    local_steps: int,
    deadline: float = math.inf,
    smallest_always: bool = True,
    slowdown: float = 1.0,
) -> RankDecision:
    # The slack is for rounding: the automatic deadline is itself such a sum.
    allowed = deadline * (1 + 1e-9)
    refusal = "it is the largest candidate"
    for rank in reversed(candidates):
        seconds = predicted_seconds(profile, rank, local_steps=local_steps, slowdown=slowdown)
        memory = memory_needed(profile, rank)
        if memory > profile.memory_bytes:
            refusal = (
                f"rank {rank} needs {memory / 1e9:.2f} GB of memory, "
                f"the device has {profile.memory_bytes / 1e9:.2f} GB"
            )
        elif seconds > allowed and not (smallest_always and rank == candidates[0]):
            refusal = f"rank {rank} needs {seconds:.1f} s, the deadline is {deadline:.1f} s"
        else:
            return RankDecision(rank, seconds, refusal)
    return RankDecision(None, seconds, refusal)


def _most_learning(
    profile: DeviceProfile,
    largest: RankDecision,
    fitting: Sequence[int],
    filled: FilledRounds,
    *,
    local_steps: int,
    deadline: float,
    slowdown: float,
) -> RankDecision:
    """Return the rank, of those that fit, whose steps within the deadline learn most."""
    if largest.rank is None:
        return largest
    steps = {
        rank: filled.steps(profile, rank, deadline=deadline, pace=slowdown) for rank in fitting
    }
    best = max(fitting, key=lambda rank: (learning(rank, steps[rank]), rank))
    if best == largest.rank:
        return largest
    seconds = predicted_seconds(profile, best, local_steps=local_steps, slowdown=slowdown)
    reason = (
        f"{steps[best]} steps at rank {best} learn more than {steps[largest.rank]} at rank "
        f"{largest.rank}"
    )
    return RankDecision(best, seconds, reason)
