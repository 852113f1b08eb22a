"""Readers of V2's slots, on buffers like vLLM's; `make gpu-check` reads real pinned memory."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vllm_logits_processor.runners.slot_tokens import (
    DeviceReader,
    HostReader,
    TokenReader,
    pinned_tokens,
    token_reader,
)

LENGTH = 16


def some_states() -> Any:
    """Return the states that readers need: three slots with 3, 5 and 0 tokens."""
    host = np.arange(3 * LENGTH, dtype=np.int32).reshape(3, LENGTH)
    tokens = SimpleNamespace(
        gpu=torch.from_numpy(host), _uva_buf=SimpleNamespace(cpu=torch.from_numpy(host), np=host)
    )
    return SimpleNamespace(
        device=torch.device("cpu"),
        all_token_ids=tokens,
        total_len=SimpleNamespace(gpu=torch.tensor([3, 5, 0], dtype=torch.int32)),
    )


def readers(states: Any) -> dict[str, TokenReader]:
    return {
        "host": HostReader(states),
        "pinned": DeviceReader(states, host=pinned_tokens(states.all_token_ids)),
        "copied": DeviceReader(states),
    }


@pytest.mark.parametrize("kind", ["host", "pinned", "copied"])
def test_tokens_are_read_from_the_first_unknown_one(kind: str) -> None:
    states = some_states()
    reader = readers(states)[kind]
    reader.begin({0: (1, 4), 1: (0, 5), 2: (0, 2)})
    assert reader.finish() == {0: [1, 2], 1: [16, 17, 18, 19, 20], 2: []}
    # Nothing new; and a slot that is behind what was known, as after a preemption.
    reader.begin({0: (3, 1), 1: (6, 1)})
    assert reader.finish() == {0: [], 1: []}
    states.total_len.gpu[0] += 1
    reader.begin({0: (3, 1)})
    assert reader.finish() == {0: [3]}
    reader.begin({})
    assert reader.finish() == {}


def test_lengths_are_those_of_the_beginning() -> None:
    """Tokens of the step under way belong to the next one's reading."""
    states = some_states()
    reader = readers(states)["pinned"]
    reader.begin({0: (0, 3)})
    states.total_len.gpu[0] += 1
    assert reader.finish() == {0: [0, 1, 2]}


def test_what_is_not_pinned_is_copied() -> None:
    assert pinned_tokens(SimpleNamespace(gpu=torch.zeros(1))) is None
    assert pinned_tokens(SimpleNamespace(_uva_buf=SimpleNamespace(np=None))) is None
    assert isinstance(token_reader(some_states()), HostReader)


def test_tokens_of_a_slot_that_is_taken_are_not_waited_for() -> None:
    assert readers(some_states())["host"].leftover(1, 2) == [18, 19, 20]
    assert readers(some_states())["pinned"].leftover(1, 2) == []


def test_the_reader_needs_no_vllm() -> None:
    code = (
        "import sys; sys.modules['vllm'] = None\n"
        "from vllm_logits_processor.runners.slot_tokens import token_reader\n"
        "print(token_reader.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "token_reader", done.stderr
