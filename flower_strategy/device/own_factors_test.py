import numpy as np
import pytest
import torch

from flower_strategy.adapters.adapter import AdapterState, initial_adapter
from flower_strategy.device.base_model import BaseModel, adapted, from_peft, layer_shapes
from flower_strategy.device.own_factors import beside, own_factors


def drawn(base: BaseModel, *, rank: int, seed: int, scaling: float = 1.0) -> AdapterState:
    adapter = initial_adapter(layer_shapes(base), rank=rank, seed=seed)
    generator = np.random.default_rng(seed)
    for factors in adapter.layers.values():
        factors.b[:] = generator.normal(size=factors.b.shape)
    return adapter.with_scaling(scaling)


@pytest.mark.parametrize("scaling", [1.0, 0.25])
def test_both_together_change_the_model_by_the_sum(tiny_base: BaseModel, scaling: float) -> None:
    own = drawn(tiny_base, rank=2, seed=1, scaling=scaling)
    fixed = drawn(tiny_base, rank=5, seed=2, scaling=0.5)
    both = beside(own, fixed)
    assert (both.rank, both.scaling) == (7, scaling)
    for layer in own.layers:
        expected = own.delta(layer) + fixed.delta(layer)
        np.testing.assert_allclose(both.delta(layer), expected, rtol=1e-4, atol=1e-4)
    assert beside(own, None) is own


def test_only_the_own_terms_get_gradients_and_change(tiny_base: BaseModel) -> None:
    own, fixed = drawn(tiny_base, rank=2, seed=1), drawn(tiny_base, rank=5, seed=2)
    ids = torch.arange(12)[None]
    with adapted(tiny_base, beside(own, fixed)) as model, torch.enable_grad():
        whole = {n: w for n, w in model.named_parameters() if w.requires_grad}
        before = {name: weight.detach().clone() for name, weight in whole.items()}
        weights = own_factors(model, rank=2)
        optimizer = torch.optim.AdamW(weights.values(), lr=0.1, weight_decay=0.0)
        gradients = []
        for _ in range(2):
            model.get_base_model()(ids, labels=ids).loss.backward()
            gradients.append(
                {
                    name: torch.clone(weight.grad)
                    for name, weight in weights.items()
                    if weight.grad is not None
                }
            )
        # Two backward passes add up, as in a step of several batches.
        assert gradients[0].keys() == weights.keys()
        for name, gradient in gradients[0].items():
            assert gradient.abs().max() > 0
            torch.testing.assert_close(gradients[1][name], 2 * gradient)
        assert all(weight.grad is None for weight in whole.values())
        optimizer.step()
        for name, weight in whole.items():
            axis = 0 if ".lora_A." in name else 1
            kept = weight.shape[axis] - 2
            assert not torch.equal(weight.narrow(axis, 0, 2), before[name].narrow(axis, 0, 2))
            assert torch.equal(weight.narrow(axis, 2, kept), before[name].narrow(axis, 2, kept))
        trained = from_peft(weights, scaling=1.0)
    assert trained.shapes == own.shapes
    assert trained.rank == 2


def test_an_adapter_alone_is_trained_as_it_is(tiny_base: BaseModel) -> None:
    with adapted(tiny_base, drawn(tiny_base, rank=3, seed=1)) as model:
        weights = own_factors(model, rank=3)
        assert {id(weight) for weight in weights.values()} == {
            id(weight) for weight in model.parameters() if weight.requires_grad
        }
