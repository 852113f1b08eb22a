r"""Judges the norm of a reply's update against the norm that the requested training produces.

AdamW changes an entry by about its learning rate per step, so steps at the rates :math:`\eta_t`
change every entry of both factors by at most about :math:`\delta = \sum_t \eta_t`, at any rank and
scaling, however many batches a step takes, and whether gradients are clipped or not.
Changes of that size and of independent signs change a layer's weight :math:`s B A`, of shape
(m, n), by

.. math:: \|\Delta\|_F \approx s \, \delta \sqrt{m \|A\|_F^2 + n \|B\|_F^2}

which is the *asked length* of an adapter. It follows from what the server sent and configured,
never from the replies; with epochs also from the device's number of examples, of which no more than
four times the round's median counts. Signs that agree as far as possible make it longer by at most
:math:`1 + \sqrt{r / n}`. Measured on SmolLM2 (alpha = rank, alpha 16, rsLoRA; rates 2e-4 and 2e-3;
two tasks), an update was 0.66 to 0.96 of it after 3 steps at every rank from 1 to 512, 0.49 to 0.54
after 10 steps, and 0.27 after 60. Unscaled lengths at one rate differ by a factor of 31 between
these ranks.

A device that keeps state replies with all that its own adapter has learned since it began, at
:math:`B = 0`. The steps asked for since then have the sum of rates :math:`\delta`, so that

.. math:: \|\Delta\|_F \approx s \, \delta \sqrt{m \|A\|_F^2 + m n r \delta^2}

with the initial A: no reply changes it, and it is no sum over rounds that a device could stretch.
It grows faster than what honest devices learn, whose steps do not all have one sign.

Every reply is judged by itself when it arrives:

* up to ``limit`` asked lengths, it counts unchanged, as do devices that have learned nothing;
* a longer update is shortened to that length. A device that trains more than asked still moves its
  cluster, and one that lies moves it no further than training could;
* an update that is `ABSURD` times longer again, also by the length that the run's highest rate
  makes, is refused if at least five devices of the round have trained and most of them are not that
  long. Until the end of the round it is kept out of the mean, in a second sum.

A warm-up begins at a rate of 0, and a cosine may end near it. Then the asked length is 0 or as
short as rounding. Factors that went through bfloat16 are longer, and so are those of a client whose
own trainer does not follow the rates: they are shortened, to nothing at 0, and not refused for it.

An earlier version took the scale from the replies, as their median. It depends on the order of
arrival unless all replies are kept (20 MB each for SmolLM2 at rank 16), says little about two or
three devices, and attackers can shift it from round to round. The asked length needs no other
reply, no disk and no memory of earlier rounds. Its cost is a looser bound: where devices move less
than asked, as over hundreds of steps, an update may be ``limit`` times the asked length instead of
``limit`` times the usual one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from flower_strategy.adapters.adapter import AdapterState

ENOUGH = 5
"""The fewest trained devices of a round for an update to be refused."""

ABSURD = 10.0
"""How many times longer than the limit a refused update is."""

_ROUNDING = 1e-13
"""Share of its terms below which a squared length is rounding. A change of such a length is 3e-7 of
the adapter's own, a few units in the last place of float32."""

_IDLE = 1e-3
"""Share of the asked length below which a device counts as untrained."""


def update_norm(sent: AdapterState, trained: AdapterState) -> float:
    r"""Return the Frobenius norm of an update, over all layers.

    With :math:`P = [s B, -s_0 B_0]` and :math:`Q = [A; A_0]` a layer's change is PQ, and
    :math:`\|PQ\|_F^2 = \langle P^T P, Q Q^T \rangle`, so no weight matrix is formed.

    Parameters
    ----------
    sent : AdapterState
        The adapter that the device received.
    trained : AdapterState
        The adapter that it returned, with the same layers.
    """
    total = 0.0
    for name, after in trained.layers.items():
        before = sent.layers[name]
        p = np.hstack([trained.scaling * after.b, -sent.scaling * before.b]).astype(np.float64)
        q = np.vstack([after.a, before.a]).astype(np.float64)
        terms = (p.T @ p) * (q @ q.T)
        change = float(np.sum(terms))
        # An adapter that came back as it was leaves the rounding of terms that cancel.
        if change > _ROUNDING * float(np.sum(np.abs(terms))):
            total += change
    return math.sqrt(total)


def asked_length(sent: AdapterState, *, move: float) -> float:
    """Return the expected norm of the requested training's update; see the module.

    Parameters
    ----------
    sent : AdapterState
        The adapter that a device is sent.
    move : float
        The sum of the learning rates of all requested steps.
    """
    squares = 0.0
    for factors in sent.layers.values():
        rows, columns = factors.shape
        a, b = factors.a.ravel(), factors.b.ravel()
        squares += rows * float(np.vdot(a, a)) + columns * float(np.vdot(b, b))
    return abs(sent.scaling) * move * math.sqrt(squares)


@dataclass(frozen=True)
class OwnLength:
    """Expected norm of a device's own adapter, by the steps since it began; see the module.

    Attributes
    ----------
    linear, square : float
        The squared norm after a sum of learning rates of d is ``linear * d**2 + square * d**4``.
    """

    linear: float
    square: float

    @classmethod
    def of(cls, initial: AdapterState) -> OwnLength:
        """Return it for the adapter that a device begins with, ``b`` zero, at its rank."""
        linear = square = 0.0
        for factors in initial.layers.values():
            (rows, columns), a = factors.shape, factors.a.ravel()
            linear += rows * float(np.vdot(a, a))
            # The squared norm of B is at most its number of entries times d^2.
            square += rows * columns * factors.rank
        return cls(initial.scaling**2 * linear, initial.scaling**2 * square)

    def after(self, move: float) -> float:
        """Return the norm after all steps whose learning rates have the sum `move`."""
        return move * math.sqrt(self.linear + self.square * move**2)


@dataclass(frozen=True)
class Judgement:
    """The verdict on an update.

    Attributes
    ----------
    kept : float
        Share of the update that counts, in [0, 1].
    odd : bool
        Whether it is absurdly long: the end of the round decides whether it counts at all.
    """

    kept: float
    odd: bool


@dataclass
class LengthJudge:
    """Judges the lengths of one round's updates, independently of their order.

    Attributes
    ----------
    limit : float
        Most asked lengths that an update counts for; 0 accepts every length.
    trained : int
        Updates so far from devices that have trained.
    odd : int
        Those of them that are absurdly long.
    """

    limit: float
    trained: int = field(default=0, init=False)
    odd: int = field(default=0, init=False)

    def judge(self, norm: float, asked: float, *, highest: float = 0.0) -> Judgement:
        """Return the verdict on an update.

        Parameters
        ----------
        norm : float
            Its norm.
        asked : float
            Its asked length.
        highest : float (default: 0.0)
            What the asked length would be with the run's highest learning rate in every step.
        """
        if not self.limit or norm <= 0.0:
            return Judgement(1.0, odd=False)
        self.trained += norm >= _IDLE * asked
        most = self.limit * asked
        odd = norm > ABSURD * self.limit * max(asked, highest)
        self.odd += odd
        return Judgement(min(1.0, most / norm), odd)

    @property
    def refuses_odd(self) -> bool:
        """Whether the round's absurdly long updates are refused, once all have been judged."""
        return self.trained >= ENOUGH and 2 * self.odd < self.trained
