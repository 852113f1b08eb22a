"""Rank policies of plugins, chosen by name and isolated so that none can end a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from floe_plugins.checks import is_number
from floe_plugins.errors import ConfigError, FloeError, PluginError
from floe_plugins.hooks import RESERVED
from floe_plugins.isolation import Caller, InvalidAnswerError, PluginCallError
from floe_plugins.manager import plugin_manager
from flower_strategy.config import RunConfig
from flower_strategy.config_keys import EXPORT_RANKS
from flower_strategy.profile import DeviceProfile
from flower_strategy.ranks.cost import RankDecision, RankPolicy, memory_needed, predicted_seconds

_HOOK = "floe_register_rank_policies"

#: A policy runs when a device joins or its slowdown changes: rarely, but the round waits for it.
ASSIGN_TIMEOUT_S = 30.0


class IsolatedPolicy:
    """A plugin's policy. If it fails, devices keep their ranks and newcomers get the smallest.

    Parameters
    ----------
    policy : RankPolicy
    plugin, name : str
        The plugin, and the name under which it registered the policy's kind.
    timeout_s : float
        Seconds for one assignment.

    Raises
    ------
    PluginError
        The policy's candidates are not ascending ranks.
    """

    def __init__(
        self,
        policy: RankPolicy,
        *,
        plugin: str,
        name: str,
        timeout_s: float = ASSIGN_TIMEOUT_S,
    ) -> None:
        self.name = name
        self._policy = policy
        self._caller = Caller(hook=_HOOK, plugin=plugin, name=name, timeout_s=timeout_s)
        self._before: dict[int, RankDecision] = {}
        candidates: Any = getattr(policy, "candidates", None)
        if not _are_ranks(candidates):
            raise PluginError(
                f"The rank policy {name!r} of plugin {plugin!r} has the candidates {candidates!r}; "
                f"accepted is a tuple of ascending whole numbers from 1 to {max(EXPORT_RANKS)}."
            )
        self.candidates: tuple[int, ...] = tuple(candidates)

    @property
    def deadline(self) -> float | None:
        """Seconds that a round may take, according to the policy; None if it fails."""

        def said() -> float | None:
            value = self._policy.deadline
            if value is not None and not (is_number(value) and value > 0):
                raise InvalidAnswerError
            return value

        try:
            return self._caller.call(said)
        except PluginCallError:
            return None

    @deadline.setter
    def deadline(self, seconds: float | None) -> None:
        try:
            self._caller.call(lambda: setattr(self._policy, "deadline", seconds))
        except PluginCallError:
            return

    def assign(
        self,
        profiles: Mapping[int, DeviceProfile],
        *,
        local_steps: Mapping[int, int],
        pace: Mapping[int, float],
    ) -> dict[int, RankDecision]:
        """Return one decision per profile; see `RankPolicy.assign`."""

        def assigned() -> dict[int, RankDecision]:
            given = self._policy.assign(
                dict(profiles), local_steps=dict(local_steps), pace=dict(pace)
            )
            return {node: self._checked(given[node]) for node in profiles}

        try:
            decisions = self._caller.call(assigned)
        except PluginCallError as error:
            decisions = {
                node: self._before.get(node)
                or self._smallest(
                    profile,
                    local_steps=local_steps[node],
                    slowdown=pace.get(node, 1.0),
                    reason=f"the policy {self.name} failed ({error.reason})",
                )
                for node, profile in profiles.items()
            }
        self._before = decisions
        return dict(decisions)

    def _checked(self, decision: object) -> RankDecision:
        if (
            not isinstance(decision, RankDecision)
            or (decision.rank is not None and decision.rank not in self.candidates)
            or not is_number(decision.predicted_seconds)
            or not isinstance(decision.reason, str)
        ):
            raise InvalidAnswerError
        return decision

    def _smallest(
        self, profile: DeviceProfile, *, local_steps: int, slowdown: float, reason: str
    ) -> RankDecision:
        smallest = self.candidates[0]
        seconds = predicted_seconds(profile, smallest, local_steps=local_steps, slowdown=slowdown)
        fits = memory_needed(profile, smallest) <= profile.memory_bytes
        return RankDecision(smallest if fits else None, seconds, reason)


def plugin_policy(config: RunConfig) -> RankPolicy:
    """Return the policy of a plugin that a run configuration names.

    Raises
    ------
    ConfigError
        No plugin registers the name.
    FloeError
        The plugin cannot make a policy of this configuration.
    """
    registered = plugin_manager().rank_policies
    found = registered.get(config.rank_policy)
    if found is None:
        accepted = ", ".join([*sorted(RESERVED[_HOOK]), *sorted(registered)])
        raise ConfigError(
            f"Run configuration rank-policy={config.rank_policy!r} is not accepted: it must be one "
            f"of {accepted}."
        )
    building = Caller(hook=_HOOK, plugin=found.plugin, name=found.name, timeout_s=None)
    try:
        policy: Any = building.call(lambda: found.value.build(config), passing=(FloeError,))
    except PluginCallError as error:
        raise PluginError(
            f"The plugin {found.plugin!r} failed to make the rank policy {found.name!r}: "
            f"{error.reason}."
        ) from None
    return IsolatedPolicy(policy, plugin=found.plugin, name=found.name)


def _are_ranks(candidates: object) -> bool:
    return (
        isinstance(candidates, tuple)
        and bool(candidates)
        and all(type(rank) is int and 1 <= rank <= max(EXPORT_RANKS) for rank in candidates)
        and list(candidates) == sorted(set(candidates))
    )
