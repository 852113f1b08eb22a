"""Real local training and evaluation; work that methods have in common is done once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from flower_strategy.adapters.adapter import AdapterState
from flower_strategy.device.base_model import BaseModel
from flower_strategy.device.training import TrainingOutcome, held_out_loss, train_adapter
from integration_tests.benchmarks.federated_quality.world import World


class Workbench:
    """Trains and evaluates for all methods of one level and seed.

    A local training is a function of the adapter sent, the node, the round and the number of
    steps. Methods send the same adapters in the first round, so its results are remembered; later
    rounds have no two alike, and are not.

    Parameters
    ----------
    world : World
        The devices.
    remember : bool (default: True)
        Whether a first round's training is done once for all methods.
    """

    def __init__(self, world: World, *, remember: bool = True) -> None:
        self.world = world
        self.trainings = 0
        self._remember = remember
        self._known: dict[str, TrainingOutcome] = {}

    def train(
        self,
        node: int,
        adapter: AdapterState,
        *,
        server_round: int,
        steps: int | None = None,
        frozen: AdapterState | None = None,
    ) -> TrainingOutcome:
        """Train an adapter on a node's examples.

        Parameters
        ----------
        node : int
            Whose examples.
        adapter : AdapterState
            Where training begins.
        server_round : int
            With seed and node it decides the order of the batches, for all methods alike.
        steps : int, optional
            Local steps, where not the protocol's.
        frozen : AdapterState, optional
            A move of the base weights that training builds on and leaves alone.
        """
        settings = self.world.settings
        if steps is not None:
            settings = settings.changed(local_steps=steps)
        key = ""
        if self._remember and server_round == 1 and frozen is None:
            key = f"{node} {settings.local_steps} {fingerprint(adapter)}"
            if key in self._known:
                return self._known[key]
        self.trainings += 1
        with moved(self.world.base, frozen):
            outcome = train_adapter(
                self.world.base,
                adapter,
                self.world.nodes[node].data.train,
                settings,
                order_seed=(self.world.seed, server_round, node),
            )
        if key:
            self._known[key] = outcome
        return outcome

    def held_out(self, node: int, adapter: AdapterState) -> float:
        """Return the held-out loss of a node with an adapter, nats per response token."""
        world = self.world
        loss, _ = held_out_loss(
            world.base, adapter, world.nodes[node].data.held_out, world.settings
        )
        return loss


def fingerprint(adapter: AdapterState) -> str:
    """Return a digest of an adapter's layers, numbers and scaling."""
    digest = hashlib.sha256(repr(adapter.scaling).encode())
    for name, factors in sorted(adapter.layers.items()):
        digest.update(f"{name} {factors.rank}".encode())
        digest.update(factors.a.tobytes())
        digest.update(factors.b.tobytes())
    return digest.hexdigest()


@contextmanager
def moved(base: BaseModel, adapter: AdapterState | None) -> Iterator[None]:
    """Merge an adapter into the base weights for a while.

    The original tensors are set aside and put back, so not a bit of them changes.
    """
    if adapter is None:
        yield
        return
    originals: dict[str, torch.Tensor] = {}
    try:
        for name in adapter.layers:
            weight = base.model.get_submodule(name).weight
            originals[name] = weight.data
            delta = torch.from_numpy(adapter.delta(name)).to(weight.device, weight.dtype)
            weight.data = weight.data + delta
        yield
    finally:
        for name, original in originals.items():
            base.model.get_submodule(name).weight.data = original
