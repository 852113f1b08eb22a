from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from floe_plugins.routers import BUILT_IN_ROUTERS, Router, RouterSignals, exponent_of

FINITE = st.floats(min_value=-50, max_value=50, allow_nan=False)


def signals(rows: int = 1, **values: float) -> RouterSignals:
    given_values = {
        name: np.full(rows, values.get(name, 0.0))
        for name in (
            "host_entropy",
            "expert_entropy",
            "disagreement",
            "evidence",
            "prompt_evidence",
        )
    }
    return RouterSignals(**given_values)


def router(name: str) -> Router:
    return next(each for each in BUILT_IN_ROUTERS if each.name == name)


def test_evidence_follows_the_formula_of_the_design() -> None:
    odds = router("evidence").log_odds(
        signals(host_entropy=1.0, expert_entropy=3.0, evidence=0.25)
    )[0]
    assert math.exp(-odds) == pytest.approx(math.exp(2 * 0.25 + (3.0**0.5 - 1.0) / 2))


def test_only_evidence_asks_for_another_mean_than_the_sum() -> None:
    exponents = {each.name: exponent_of(each) for each in BUILT_IN_ROUTERS}
    assert exponents.pop("evidence") == 0.25
    assert set(exponents.values()) == {1.0}


def test_entropy_is_proportional_to_exp_of_minus_entropy() -> None:
    odds = router("entropy").log_odds(signals(host_entropy=0.5, expert_entropy=2.0))[0]
    assert math.exp(odds) == pytest.approx(math.exp(-2.0) / math.exp(-0.5))


def test_perplexity_takes_the_prompts_and_nothing_else() -> None:
    odds = router("perplexity").log_odds(signals(prompt_evidence=0.7, evidence=-3.0))[0]
    assert math.exp(odds) == pytest.approx(math.exp(-0.7))
    assert router("perplexity").log_odds(signals(evidence=-3.0))[0] == 0.0


def test_mean_host_and_expert_are_constant() -> None:
    assert router("mean").log_odds(signals(rows=3)).tolist() == [0.0, 0.0, 0.0]
    assert (
        router("host").log_odds(signals())[0] < -50 < 50 < router("expert").log_odds(signals())[0]
    )


@pytest.mark.parametrize("name", [each.name for each in BUILT_IN_ROUTERS])
@given(first=FINITE, second=FINITE, evidence=FINITE)
def test_a_row_does_not_depend_on_its_neighbours(
    name: str, first: float, second: float, evidence: float
) -> None:
    rows = RouterSignals(
        host_entropy=np.array([first, 1.0, second]),
        expert_entropy=np.array([second, 2.0, first]),
        disagreement=np.array([0.1, 0.2, 0.3]),
        evidence=np.array([evidence, 0.0, -evidence]),
        prompt_evidence=np.array([-evidence, evidence, 0.0]),
    )
    together = router(name).log_odds(rows)
    assert np.isfinite(together).all()
    for row in range(3):
        alone = RouterSignals(
            **{field: getattr(rows, field)[row : row + 1] for field in vars(rows)}
        )
        assert router(name).log_odds(alone)[0] == together[row]


def test_routers_need_no_torch() -> None:
    code = "import sys, floe_plugins.routers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
