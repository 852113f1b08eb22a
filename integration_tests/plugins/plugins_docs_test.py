"""The pages about plugins: their examples load, work as described, and match the template."""

from __future__ import annotations

import io
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from floe_plugins import hooks as specifications
from floe_plugins.cli import main
from floe_plugins.errors import ModelError
from floe_plugins.gate import Gate
from floe_plugins.hooks import RESERVED
from floe_plugins.isolated_plugins import LISTING_TIMEOUT_S, ROUTER_TIMEOUT_S
from floe_plugins.manager import PluginManager
from floe_plugins.models import resolve
from floe_plugins.testing import DetectorConformance, RouterConformance
from floe_plugins.testing.experts import ExpertConformance
from floe_plugins.testing.fixtures import load_plugin
from flower_strategy.config import RunConfig
from flower_strategy.ranks.plugin_policy import ASSIGN_TIMEOUT_S
from flower_strategy.ranks.policies import policy_from_config
from flower_strategy.testing.models import make_profile
from integration_tests.harness.markdown import named_blocks, titled_blocks
from vllm_logits_processor.config import ExpertConfig, FloeConfig
from vllm_logits_processor.expert.build import build_expert

DOCS = Path(__file__).parents[2] / "docs"
HOOKS = DOCS / "reference" / "hooks.md"
HOW_TOS = [DOCS / "how-to" / f"write-a-{thing}.md" for thing in ("detector", "router")]
TEMPLATE = DOCS / "plugin-template"
EXAMPLES = named_blocks(HOOKS)

__all__ = ["load_plugin"]


@pytest.fixture
def loaded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    load_plugin: Callable[[str], PluginManager],
) -> Iterator[Callable[[str], PluginManager]]:
    """Load the example of a hook as a plugin that is not installed."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names = []

    def load(hook: str) -> PluginManager:
        name = hook.replace("floe_register", "example_of")
        (tmp_path / f"{name}.py").write_text(EXAMPLES[hook], encoding="utf-8")
        names.append(name)
        return load_plugin(name)

    yield load
    for name in names:
        sys.modules.pop(name, None)


def test_the_page_has_a_section_and_an_example_for_every_hook() -> None:
    hooks = [name for name in vars(specifications) if name.startswith("floe_")]
    assert sorted(EXAMPLES) == sorted(hooks)
    page = HOOKS.read_text(encoding="utf-8")
    assert re.findall(r"^## (floe_\w+)$", page, re.MULTILINE) == hooks
    for names in RESERVED.values():
        assert all(f"`{name}`" in page for name in names)


def test_the_page_names_the_limits_of_calls() -> None:
    page = HOOKS.read_text(encoding="utf-8")
    assert f"| routers | {ROUTER_TIMEOUT_S:g} s |" in page
    assert f"{LISTING_TIMEOUT_S:g} s for `references`" in page
    assert f"| rank policies | {ASSIGN_TIMEOUT_S:g} s |" in page


def test_the_example_of_a_detector(loaded: Callable[[str], PluginManager]) -> None:
    found = loaded("floe_register_detectors").detectors["invoice"].value

    class Suite(DetectorConformance):
        detector = found
        examples = ("pay INV-20260101 today",)
        clean = ("INV-2026",)

    conforms(Suite())
    assert Gate(detectors=["invoice"]).decide("pay INV-20260101").labels == ("INVOICE",)


def test_the_example_of_a_router(loaded: Callable[[str], PluginManager]) -> None:
    found = loaded("floe_register_routers").routers["surer"].value

    class Suite(RouterConformance):
        router = found

    conforms(Suite())


def conforms(suite: object) -> None:
    tests = [name for name in dir(suite) if name.startswith("test_")]
    assert len(tests) >= 5
    for name in tests:
        getattr(suite, name)()


def test_the_example_of_an_expert(loaded: Callable[[str], PluginManager]) -> None:
    pool = build_expert(
        ExpertConfig(model="any", url="http://127.0.0.1:9/v1", tokenizer="any", kind="repeater"),
        vocabulary=10,
        end_ids=np.array([2], dtype=np.int32),
        breaker_failures=1,
        breaker_cooldown_s=1.0,
        kinds=loaded("floe_register_experts").experts,
    )
    reply = pool.start([[3, 4], [5]], model="any").result(timeout=10)
    assert [each.tokens.tolist() for each in reply.continuations] == [[4], [5]]
    assert pool.score([3, 4], model="any").result(timeout=10) == -2.0
    pool.close()


def test_the_example_of_an_expert_conforms(loaded: Callable[[str], PluginManager]) -> None:
    class Suite(ExpertConformance):
        kind = loaded("floe_register_experts").experts["repeater"].value

    suite = Suite()
    tests = [name for name in dir(suite) if name.startswith("test_")]
    assert len(tests) >= 5
    for name in tests:
        expert = suite.build()
        getattr(suite, name)(*([] if name == "test_it_says_what_it_is" else [expert]))
        expert.close()


def test_the_example_of_a_model_source(
    loaded: Callable[[str], PluginManager], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "small").mkdir(parents=True)
    monkeypatch.setenv("MODEL_SHELF", str(tmp_path / "models"))
    loaded("floe_register_model_sources")
    assert resolve("shelf:small") == str(tmp_path / "models" / "small")
    with pytest.raises(ModelError, match=r"The shelf has no 'large'; it has \['small'\]"):
        resolve("shelf:large")


def test_the_example_of_a_rank_policy(loaded: Callable[[str], PluginManager]) -> None:
    loaded("floe_register_rank_policies")
    config = RunConfig.from_dict({"ranks": "4,8", "rank-policy": "by-examples"})
    profiles = {1: make_profile(num_examples=100), 2: make_profile(num_examples=99)}
    decisions = policy_from_config(config).assign(profiles, local_steps={1: 1, 2: 1}, pace={})
    assert [decisions[node].rank for node in profiles] == [8, 4]
    assert decisions[2].reason == "it has 99 examples"


@pytest.mark.parametrize("page", HOW_TOS, ids=lambda page: page.stem)
def test_the_how_tos_show_the_template_as_it_is(page: Path) -> None:
    shown = titled_blocks(page)
    assert shown
    for name, code in shown.items():
        assert code == (TEMPLATE / name).read_text(encoding="utf-8"), name


def test_the_pages_declare_the_entry_point_of_the_template() -> None:
    declared = tomllib.loads((TEMPLATE / "pyproject.toml").read_text(encoding="utf-8"))
    for page in (HOOKS, HOW_TOS[0]):
        (block,) = re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        points = tomllib.loads(block)["project"]["entry-points"]
        assert points == declared["project"]["entry-points"]


def test_the_gate_says_of_a_badge_what_the_how_to_shows(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    load_plugin: Callable[[str], PluginManager],
) -> None:
    monkeypatch.syspath_prepend(str(TEMPLATE / "src"))
    load_plugin("floe_badges")
    page = HOW_TOS[0].read_text(encoding="utf-8")
    said = re.search(r'echo "(.*?)" \| floe-llm (.*?)\n```\n\n```\n([^`]*)```', page)
    assert said
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{said[1]}\n".encode())))
    assert main(said[2].split()) == 1
    assert capsys.readouterr().out == said[3]


def test_the_configuration_of_the_how_to_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```json\n(.*?)```", HOW_TOS[1].read_text(encoding="utf-8"), re.DOTALL)
    config: Any = FloeConfig.from_additional_config({"floe": json.loads(block)})
    assert config.router == "doubt"
