r"""The step size under which the clustered updates are known to converge.

Theorem 1 of "Floe: Federated Specialization for Real-Time LLM-SLM Inference" (arXiv 2602.14302)
bounds the average of the squared gradient norm over the rounds, for E local steps on losses whose
gradients are L-Lipschitz, provided that

.. math:: \eta \le \frac{1}{30 L E}.

It is a theorem about SGD. Devices train with AdamW, which divides each coordinate's step by the
size of its own gradients, so the condition does not carry over as it stands: read it as a guide to
the order of magnitude, not as a guarantee, and a warning as a hint, not as an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from floe_plugins.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from flower_strategy.adapters.adapter import AdapterState
    from flower_strategy.data.examples import Example
    from flower_strategy.device.base_model import BaseModel
    from flower_strategy.device.training import TrainingSettings


def step_size_limit(smoothness: float, local_steps: int) -> float:
    """Return the largest learning rate of Theorem 1, ``1 / (30 L E)``.

    Parameters
    ----------
    smoothness : float
        L, at least 0; 0 gives no limit (infinity).
    local_steps : int
        E, at least 1.

    Raises
    ------
    ConfigError
        A number is out of range.
    """
    if not 0 <= smoothness < math.inf:
        raise ConfigError(f"The smoothness is {smoothness}; it must be finite and at least 0.")
    if local_steps < 1:
        raise ConfigError(f"The number of local steps is {local_steps}; it must be at least 1.")
    return math.inf if smoothness == 0 else 1.0 / (30.0 * smoothness * local_steps)


def step_size_warning(learning_rate: float, smoothness: float, local_steps: int) -> str | None:
    """Return one sentence if the learning rate exceeds Theorem 1's condition, else None.

    Parameters
    ----------
    learning_rate : float
        The devices' learning rate.
    smoothness : float
        L; the largest that a device estimated. 0 stands for not estimated.
    local_steps : int
        E, optimizer steps per device and round.
    """
    limit = step_size_limit(smoothness, local_steps)
    if learning_rate <= limit:
        return None
    return (
        f"The learning rate {learning_rate:.3g} exceeds 1/(30 L E) = {limit:.3g} for the estimated "
        f"smoothness L = {smoothness:.3g} and E = {local_steps} local steps, under which Theorem 1 "
        "shows convergence for SGD (with AdamW it is a guide): should the loss not fall, lower "
        "learning-rate or local-steps."
    )


def estimate_smoothness(
    loss: Callable[[], torch.Tensor],
    parameters: Sequence[torch.Tensor],
    *,
    steps: int,
    seed: int = 0,
) -> float:
    """Return the largest absolute eigenvalue of a loss's Hessian, by power iteration.

    That is the local curvature, at one point and on one batch: a lower bound of the L that the
    theorem means, which holds between any two points. Few steps make it lower still: each step's
    value is at least that of the step before.

    The products of Hessian and vector come from differentiating twice, which is exact, rather than
    from differences of gradients, whose step would have to be tuned to float32 and fails for
    bfloat16 weights. The fused attention kernels of PyTorch cannot be differentiated twice, so
    attention is computed by the plain one (``SDPBackend.MATH``) meanwhile. A step takes about
    the time of two ordinary ones, and about twice their memory.

    Parameters
    ----------
    loss : Callable[[], torch.Tensor]
        Computes the loss, a scalar, from `parameters`; deterministic.
    parameters : Sequence[torch.Tensor]
        Those with respect to which the Hessian is taken; they require gradients.
    steps : int
        Products to form, at least 1.
    seed : int (default: 0)
        Seed of the random part of the vector to begin with.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    generator = torch.Generator().manual_seed(seed)
    noise = [
        torch.randn(weight.shape, generator=generator).to(weight.device, weight.dtype)
        for weight in parameters
    ]
    estimate = 0.0
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        gradients = torch.autograd.grad(
            loss(), parameters, create_graph=True, allow_unused=True, materialize_grads=True
        )
        # The gradient of a network lies mostly along the directions of large curvature, a random
        # vector among millions of dimensions hardly: the one makes few steps enough, the other
        # makes sure that no direction is missed.
        slope = [gradient.detach() for gradient in gradients]
        weights = (1.0 / max(_norm(slope), 1e-30), 1.0 / _norm(noise))
        vector = [
            weights[0] * along + weights[1] * anywhere
            for along, anywhere in zip(slope, noise, strict=True)
        ]
        for _ in range(steps):
            length = _norm(vector)
            if length == 0.0:
                return 0.0
            # Where a gradient does not depend on the parameters, its product is zero.
            vector = list(
                torch.autograd.grad(
                    [gradient for gradient in gradients if gradient.requires_grad],
                    parameters,
                    [
                        part / length
                        for gradient, part in zip(gradients, vector, strict=True)
                        if gradient.requires_grad
                    ],
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
            )
            # Of a unit vector, the length of the product: it converges to the absolute
            # eigenvalue even where two of opposite sign are equally large.
            estimate = _norm(vector)
    return estimate


def _norm(vector: Sequence[torch.Tensor]) -> float:
    return math.sqrt(sum(float(part.double().square().sum()) for part in vector))


def adapter_smoothness(
    base: BaseModel,
    adapter: AdapterState,
    examples: Sequence[Example],
    settings: TrainingSettings,
) -> float:
    """Return the estimated smoothness of a device's loss with respect to an adapter's factors.

    It is taken on the first batch of the examples, at the point that one round of local training
    reaches from `adapter`. Where training begins, every ``b`` is zero, so the loss does not depend
    on ``a`` at all and the curvature along ``a`` vanishes: the estimate there would say nothing
    about the next step.

    Parameters
    ----------
    base : BaseModel
        The frozen model.
    adapter : AdapterState
        Where the round begins.
    examples : Sequence[Example]
        The device's examples.
    settings : TrainingSettings
        ``smoothness_steps`` is the number of steps of the power iteration, at least 1.
    """
    from flower_strategy.device.base_model import adapted
    from flower_strategy.device.training import collate, response_loss, train_adapter

    trained = train_adapter(base, adapter, examples, settings, order_seed=(settings.seed,)).adapter
    batch = collate(examples[: settings.batch_size], base, settings.max_length)
    with adapted(base, trained) as model:
        weights = [weight for weight in model.parameters() if weight.requires_grad]

        def loss() -> torch.Tensor:
            total, tokens = response_loss(model.get_base_model(), batch)
            return total / max(tokens, 1)

        return estimate_smoothness(
            loss, weights, steps=settings.smoothness_steps, seed=settings.seed
        )
