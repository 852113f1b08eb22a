r"""How long a reply's update is, against what the training that was asked for makes.

AdamW moves an entry by about its learning rate a step, so E steps at rate :math:`\eta` move every
entry of both factors by at most about :math:`\delta = E \eta`, at any rank and scaling. Moves that
small and of independent signs change a layer's weight :math:`s B A`, of shape (m, n), by

.. math:: \|\Delta\|_F \approx s \, \delta \sqrt{m \|A\|_F^2 + n \|B\|_F^2}

which is the *asked length* of an adapter: it follows from what the server sent and set, never from
what devices reply. Signs that agree as far as they can make it longer by
:math:`1 + \sqrt{r / n}` at most. Measured on SmolLM2 (alpha = rank, alpha 16, rsLoRA; rates 2e-4
and 2e-3; two tasks), an update was 0.66 to 0.96 of it after 3 steps at every rank from 1 to 512,
0.49 to 0.54 after 10 steps, 0.27 after 60. Bare lengths at one rate differ by a factor of 31
between these ranks.

So a reply is judged when it comes, by itself:

* up to ``limit`` asked lengths it counts as it is, as do devices that have learned nothing;
* a longer one is shortened to that: a device that trains more than asked still moves its cluster,
  and one that lies moves it by no more than it could by training;
* what is `ABSURD` times longer still is refused, if five or more devices of the round have trained
  and most of them are not so.  Until the round's end it is kept out of the mean, in a second sum.

A scale that is taken from the replies, such as their median, was tried before. It depends on who
comes first unless all replies are kept (20 MB each for SmolLM2 at rank 16), says little of two or
three devices, and what it carries from round to round can be captured. The asked length needs no
other reply, no disk and no memory of earlier rounds. It costs tightness: where devices move less
than they were asked to, as over hundreds of steps, an update may be ``limit`` times what was asked
rather than ``limit`` times what is usual.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from flower_strategy.adapters.adapter import AdapterState

ENOUGH = 5
"""Devices that have trained, from which one of them can be called odd."""

ABSURD = 10.0
"""How many times the limit an update must be long to be refused."""

_IDLE = 1e-3
"""Share of the asked length below which a device has not trained."""


def update_norm(sent: AdapterState, trained: AdapterState) -> float:
    r"""Return the Frobenius norm of what training changed, over all layers.

    With :math:`P = [s B, -s_0 B_0]` and :math:`Q = [A; A_0]` a layer's change is PQ, and
    :math:`\|PQ\|_F^2 = \langle P^T P, Q Q^T \rangle`, so no weight matrix is formed.

    Parameters
    ----------
    sent : AdapterState
        The adapter that the device got.
    trained : AdapterState
        The adapter that came back, same layers.
    """
    total = 0.0
    for name, after in trained.layers.items():
        before = sent.layers[name]
        p = np.hstack([trained.scaling * after.b, -sent.scaling * before.b]).astype(np.float64)
        q = np.vstack([after.a, before.a]).astype(np.float64)
        total += max(0.0, float(np.sum((p.T @ p) * (q @ q.T))))
    return math.sqrt(total)


def asked_length(sent: AdapterState, *, local_steps: int, learning_rate: float) -> float:
    """Return the norm of the update that the training asked for makes, see the module.

    Parameters
    ----------
    sent : AdapterState
        The adapter that a device is sent.
    local_steps, learning_rate : int, float
        What it is asked to train.
    """
    squares = 0.0
    for factors in sent.layers.values():
        rows, columns = factors.shape
        a, b = factors.a.ravel(), factors.b.ravel()
        squares += rows * float(np.vdot(a, a)) + columns * float(np.vdot(b, b))
    return abs(sent.scaling) * learning_rate * local_steps * math.sqrt(squares)


@dataclass(frozen=True)
class Judgement:
    """What becomes of an update.

    Attributes
    ----------
    kept : float
        Share of the update that counts, in [0, 1].
    odd : bool
        Whether it is so long that the round's end decides whether it counts at all.
    """

    kept: float
    odd: bool


@dataclass
class LengthJudge:
    """Judges the lengths of one round's updates; the order in which they come does not matter.

    Attributes
    ----------
    limit : float
        How many asked lengths an update counts for at most; 0 takes every length.
    trained : int
        Updates so far of devices that have trained.
    odd : int
        Those among them that are absurd.
    """

    limit: float
    trained: int = field(default=0, init=False)
    odd: int = field(default=0, init=False)

    def judge(self, norm: float, asked: float) -> Judgement:
        """Return what becomes of an update of this norm where `asked` is its asked length."""
        if not self.limit or norm <= 0.0:
            return Judgement(1.0, odd=False)
        self.trained += norm >= _IDLE * asked
        most = self.limit * asked
        odd = norm > ABSURD * most
        self.odd += odd
        return Judgement(min(1.0, most / norm), odd)

    @property
    def refuses_odd(self) -> bool:
        """Whether the round's absurd updates are refused, now that all have been judged."""
        return self.trained >= ENOUGH and 2 * self.odd < self.trained
