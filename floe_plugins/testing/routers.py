"""What every router must hold."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from floe_plugins.manager_checks import NAME
from floe_plugins.routers import Router, exponent_of
from floe_plugins.testing.signals import make_signals, rows_of

_ROWS = 64


class RouterConformance:
    """Tests of one router; inherit in a class whose name begins with ``Test``.

    Attributes
    ----------
    router : Router
        The router.
    """

    router: ClassVar[Router]

    def test_it_says_what_it_is(self) -> None:
        """Name and exponent are what the manager accepts."""
        assert isinstance(self.router, Router), "it lacks name or log_odds"
        assert NAME.fullmatch(self.router.name)
        assert 0 < exponent_of(self.router) <= 1

    def test_it_answers_with_one_finite_number_per_row(self) -> None:
        """Also for models that are certain, that know nothing, and for no rows at all."""
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
        """The same signals give the same bits, whatever was asked in between."""
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
        """The arrays are the engine's own."""
        signals = make_signals(_ROWS)
        before = {name: array.copy() for name, array in vars(signals).items()}
        self.router.log_odds(signals)
        for name, array in before.items():
            assert np.array_equal(getattr(signals, name), array), name
