import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from floe_plugins.errors import ConfigError, PluginError
from floe_plugins.hooks import RESERVED
from floe_plugins.manager import PLUGINS_VARIABLE, _load
from flower_strategy.config import RunConfig
from flower_strategy.ranks.cost import RankDecision, RankPolicy
from flower_strategy.ranks.plugin_policy import IsolatedPolicy
from flower_strategy.ranks.policies import (
    DeadlinePolicy,
    FixedPolicy,
    MemoryPolicy,
    UniformMinPolicy,
    policy_from_config,
)
from flower_strategy.testing.models import make_profile

STEPS = dict.fromkeys(range(4), 2)
PLUGIN = """
from floe_plugins import hookimpl
from floe_plugins.errors import ConfigError
from flower_strategy.ranks.cost import RankDecision

class Policy:
    name = "two-sizes"
    deadline = None
    def __init__(self, ranks):
        self.candidates = ranks
    def assign(self, profiles, *, local_steps, pace):
        small, large = self.candidates[0], self.candidates[-1]
        return {
            node: RankDecision(large if profile.device == "laptop" else small, 1.0, "by its class")
            for node, profile in profiles.items()
        }

class Kind:
    name = "two-sizes"
    def build(self, config):
        if len(config.ranks) == 1:
            raise ConfigError("two-sizes needs two ranks.")
        if len(config.ranks) == 3:
            raise KeyError("oops")
        if len(config.ranks) == 4:
            return Policy(list(config.ranks))
        return Policy(config.ranks)

@hookimpl
def floe_register_rank_policies():
    return [Kind()]
"""


class Scripted:
    """A policy whose answer the test sets."""

    name = "scripted"
    candidates: tuple[int, ...] = (4, 8)
    deadline: Any = None

    def __init__(self, answer: Callable[[dict[int, Any]], Any]) -> None:
        self.answer = answer

    def assign(self, profiles: Any, *, local_steps: Any, pace: Any) -> Any:
        return self.answer(profiles)


@pytest.fixture
def chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, str], RankPolicy]]:
    (tmp_path / "two_sizes_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(PLUGINS_VARIABLE, "two_sizes_plugin")
    _load.cache_clear()

    def choose(name: str, ranks: str = "4,16") -> RankPolicy:
        return policy_from_config(RunConfig.from_dict({"ranks": ranks, "rank-policy": name}))

    yield choose
    _load.cache_clear()


def isolated(answer: Callable[[dict[int, Any]], Any], timeout_s: float = 5.0) -> IsolatedPolicy:
    return IsolatedPolicy(Scripted(answer), plugin="rash", name="scripted", timeout_s=timeout_s)


def test_the_configuration_chooses_a_plugins_policy(
    chosen: Callable[[str], RankPolicy],
) -> None:
    policy = chosen("two-sizes")
    profiles = {1: make_profile(device="laptop"), 2: make_profile(device="phone")}
    decisions = policy.assign(profiles, local_steps=STEPS, pace={})
    assert [decisions[node].rank for node in (1, 2)] == [16, 4]
    assert (policy.name, policy.candidates, policy.deadline) == ("two-sizes", (4, 16), None)
    policy.deadline = 9.0
    assert policy.deadline == 9.0


def test_a_name_that_nobody_registers_is_refused(chosen: Callable[[str], RankPolicy]) -> None:
    with pytest.raises(ConfigError, match=r"must be one of .*memory, uniform-min, two-sizes"):
        chosen("three-sizes")


@pytest.mark.parametrize(
    ("ranks", "error", "said"),
    [
        ("4", ConfigError, "two-sizes needs two ranks."),
        ("1,2,4", PluginError, "'two_sizes_plugin' failed to make .*'two-sizes': KeyError"),
        ("1,2,4,8", PluginError, r"'two_sizes_plugin' has the candidates \[1, 2, 4, 8\]"),
    ],
)
def test_a_policy_that_cannot_be_made_ends_the_run_at_its_start(
    chosen: Callable[[str, str], RankPolicy], ranks: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        chosen("two-sizes", ranks)


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: 1 / 0,
        lambda _: None,
        lambda _: {},
        lambda nodes: dict.fromkeys(nodes, 8),
        lambda nodes: dict.fromkeys(nodes, RankDecision(16, 1.0, "too high")),
        lambda nodes: dict.fromkeys(nodes, RankDecision(8, math.nan, "no time")),
    ],
)
def test_after_a_failure_devices_keep_their_ranks_and_newcomers_get_the_smallest(
    answer: Callable[[dict[int, Any]], Any],
) -> None:
    policy = isolated(lambda nodes: dict.fromkeys(nodes, RankDecision(8, 1.0, "fits")))
    profiles = {1: make_profile(), 2: make_profile(), 3: make_profile(memory_bytes=1)}
    policy.assign({1: profiles[1]}, local_steps=STEPS, pace={})
    policy._policy.answer = answer  # type: ignore[attr-defined]
    decisions = policy.assign(profiles, local_steps=STEPS, pace={})
    assert [decisions[node].rank for node in profiles] == [8, 4, None]
    assert decisions[1].reason == "fits"
    assert decisions[2].reason.startswith("the policy scripted failed (")
    again = policy.assign(profiles, local_steps=STEPS, pace={})
    assert again == decisions


def test_a_policy_that_hangs_is_not_waited_for() -> None:
    begun = time.monotonic()
    decisions = isolated(lambda _: time.sleep(2), timeout_s=0.1).assign(
        {1: make_profile()}, local_steps=STEPS, pace={}
    )
    assert time.monotonic() - begun < 1.0
    assert decisions[1].reason == "the policy scripted failed (late)"


def test_a_deadline_that_makes_no_sense_is_none() -> None:
    policy = isolated(lambda _: {})
    policy._policy.deadline = "soon"  # type: ignore[assignment]
    assert policy.deadline is None


def test_the_reserved_names_are_those_of_the_built_in_policies() -> None:
    built_in = {kind.name for kind in (DeadlinePolicy, MemoryPolicy, FixedPolicy, UniformMinPolicy)}
    assert RESERVED["floe_register_rank_policies"] == built_in
