"""The conformance suite of routers, and its signals."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from floe_plugins.manager_checks import NAME
from floe_plugins.routers import Router, RouterSignals, exponent_of

_ROWS = 64


class RouterConformance:
    """Tests of one router; inherit in a class whose name begins with ``Test``."""

    router: ClassVar[Router]

    def test_it_says_what_it_is(self) -> None:
        """Name and exponent are what the manager accepts."""
        assert isinstance(self.router, Router), "it lacks name or log_odds"
        assert NAME.fullmatch(self.router.name)
        assert 0 < exponent_of(self.router) <= 1

    def test_it_answers_with_one_finite_number_per_row(self) -> None:
        """Every row gets a finite number, also if a model is certain or knows nothing."""
        for rows in (0, 1, 4, _ROWS):
            odds = self.router.log_odds(make_signals(rows))
            assert odds.shape == (rows,)
            assert np.issubdtype(odds.dtype, np.floating)
            assert np.isfinite(odds).all()

    def test_the_weights_sum_to_one(self) -> None:
        """The two weights that follow from the log-odds are in [0, 1] and sum to one."""
        odds = np.asarray(self.router.log_odds(make_signals(_ROWS)), dtype=np.float64)
        expert = 0.5 * (1.0 + np.tanh(odds / 2))
        host = 0.5 * (1.0 + np.tanh(-odds / 2))
        assert ((expert >= 0) & (expert <= 1)).all()
        assert np.allclose(host + expert, 1.0, rtol=0, atol=1e-12)

    def test_it_is_deterministic(self) -> None:
        """The same signals give the same bits, whatever the calls in between."""
        first = self.router.log_odds(make_signals(_ROWS)).tobytes()
        self.router.log_odds(make_signals(_ROWS, seed=1))
        assert self.router.log_odds(make_signals(_ROWS)).tobytes() == first

    def test_a_row_does_not_depend_on_its_neighbours(self) -> None:
        """Alone, among others or in another order, a row gets the same bits."""
        signals = make_signals(_ROWS)
        together = self.router.log_odds(signals)
        for row in range(_ROWS):
            alone = self.router.log_odds(rows_of(signals, [row]))
            assert alone.tobytes() == together[row : row + 1].tobytes()
        order = np.random.default_rng(2).permutation(_ROWS).tolist()
        shuffled = self.router.log_odds(rows_of(signals, order))
        assert shuffled.tobytes() == together[order].tobytes()

    def test_it_leaves_its_signals_as_they_are(self) -> None:
        """The router does not write into the engine's arrays."""
        signals = make_signals(_ROWS)
        before = {name: array.copy() for name, array in vars(signals).items()}
        self.router.log_odds(signals)
        for name, array in before.items():
            assert np.array_equal(getattr(signals, name), array), name


#: ln of a vocabulary of a million tokens: no entropy is higher.
MOST_ENTROPY = 14.0
#: Largest advantage in prediction of one model, nats per token.
MOST_EVIDENCE = 50.0


def make_signals(rows: int, *, seed: int = 0) -> RouterSignals:
    """Return random signals of some rows, the same for the same seed; arrays of shape (rows,).

    The first rows are extremes: models that are certain or know nothing, and evidence far to
    either side. Some entropies are a little below zero, as rounding may leave them.
    """
    rng = np.random.default_rng(seed)
    values = {
        "host_entropy": rng.uniform(0, MOST_ENTROPY, rows),
        "expert_entropy": rng.uniform(0, MOST_ENTROPY, rows),
        "disagreement": rng.uniform(0, math.log(2), rows),
        "evidence": rng.normal(0, 3, rows),
        "prompt_evidence": rng.normal(0, 1, rows),
    }
    extremes = (
        (0.0, 0.0, 0.0, 0.0, 0.0),
        (-1e-12, MOST_ENTROPY, math.log(2), MOST_EVIDENCE, MOST_EVIDENCE),
        (MOST_ENTROPY, -1e-12, math.log(2), -MOST_EVIDENCE, -MOST_EVIDENCE),
        (MOST_ENTROPY, MOST_ENTROPY, 1e-300, 1e-300, 0.0),
    )
    for row, extreme in enumerate(extremes[:rows]):
        for name, value in zip(values, extreme, strict=True):
            values[name][row] = value
    return RouterSignals(**values)


def rows_of(signals: RouterSignals, rows: list[int]) -> RouterSignals:
    """Return the signals of some of the rows, in that order."""
    return RouterSignals(**{name: array[rows] for name, array in vars(signals).items()})
