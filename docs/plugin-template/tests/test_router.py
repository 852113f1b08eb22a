"""The router holds what all routers must, and doubts as it says."""

import math
from collections.abc import Callable

import pytest
from floe_badges.router import DoubtRouter

from floe_plugins.routers import RouterSignals
from floe_plugins.testing import RouterConformance
from floe_plugins.testing.fixtures import router_signals as router_signals


class TestDoubt(RouterConformance):
    """Finite, weights that sum to one, no row that depends on its neighbours."""

    router = DoubtRouter()


def test_more_disagreement_is_less_weight(router_signals: Callable[..., RouterSignals]) -> None:
    """From equal weights to one in ten."""
    odds = DoubtRouter().log_odds(router_signals(2))
    assert odds[0] == 0.0
    assert math.exp(odds[1]) == pytest.approx(1 / 9)
