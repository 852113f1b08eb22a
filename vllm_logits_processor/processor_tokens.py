"""Reads the tokens of V2's request slots, before the forward pass and without waiting for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcRequestState


class TokenReader(Protocol):
    """Reads new tokens in two steps; what comes between them need not wait.

    Attributes
    ----------
    waits : bool
        True where `finish` may have to wait for the last step's tokens: call it late.
    """

    waits: bool

    def begin(self, known: Mapping[int, int]) -> None:
        """Begin to read.

        Parameters
        ----------
        known : mapping of slot to int
            How many tokens of the slot are known already; 0 for a request that is new in its slot.
        """

    def finish(self) -> dict[int, list[int]]:
        """Return the tokens of each slot from the first unknown one on."""

    def leftover(self, slot: int, known: int) -> list[int]:
        """Return unknown tokens of a slot that is given to another request in this very step.

        Empty where they cannot be read without waiting.
        """


def token_reader(states: LogitsProcRequestState, *, most_new: int) -> TokenReader:
    """Return the reader for the device that the slots' tokens are on.

    Parameters
    ----------
    most_new : int
        Most tokens that one step adds to a request.
    """
    if states.device.type == "cpu":
        return HostReader(states)
    return DeviceReader(states, most_new=most_new)


class HostReader:
    """Reads where vLLM computes on the CPU: all tokens are there when the step begins."""

    waits = False

    def __init__(self, states: LogitsProcRequestState) -> None:
        self._tokens = states.all_token_ids.gpu
        self._lengths = states.total_len.gpu
        self._known: Mapping[int, int] = {}

    def begin(self, known: Mapping[int, int]) -> None:
        """Note what is wanted."""
        self._known = known

    def finish(self) -> dict[int, list[int]]:
        """Read it."""
        return {
            slot: self._tokens[slot, known : int(self._lengths[slot])].tolist()
            for slot, known in self._known.items()
        }

    def leftover(self, slot: int, known: int) -> list[int]:
        """Read them: vLLM overwrites them only after it has told the processors."""
        tokens: list[int] = self._tokens[slot, known : int(self._lengths[slot])].tolist()
        return tokens


class DeviceReader:
    """Reads from an accelerator, on a stream of its own.

    When a step begins, the sampling of the last one may still be queued. The copies wait for that
    on the device, and `finish` waits for the copies: never for the present step's forward pass.

    Parameters
    ----------
    most_new : int
        Most tokens that one step adds to a request.
    """

    waits = True

    def __init__(self, states: LogitsProcRequestState, *, most_new: int) -> None:
        self._states = states
        self._most_new = most_new
        self._device = torch.get_device_module(states.device)
        self._side = self._device.Stream(device=states.device)
        self._done = self._device.Event()
        self._known: Mapping[int, int] = {}
        self._lengths = torch.empty(0, dtype=torch.int32)
        self._copies: dict[int, torch.Tensor] = {}

    def begin(self, known: Mapping[int, int]) -> None:
        """Queue the copies."""
        self._known, self._copies = known, {}
        if not known:
            return
        lengths, tokens = self._states.total_len.gpu, self._states.all_token_ids.gpu
        self._side.wait_stream(self._device.current_stream())
        with self._device.stream(self._side):
            self._lengths = _pinned_like(lengths)
            self._lengths.copy_(lengths, non_blocking=True)
            for slot, start in known.items():
                new = self._most_new if start else int(self._states.prefill_len.np[slot])
                source = tokens[slot, start : start + new]
                self._copies[slot] = _pinned_like(source)
                self._copies[slot].copy_(source, non_blocking=True)
            self._done.record(self._side)

    def finish(self) -> dict[int, list[int]]:
        """Wait for the copies."""
        if not self._known:
            return {}
        self._done.synchronize()
        return {
            slot: self._copies[slot][: max(0, int(self._lengths[slot]) - start)].tolist()
            for slot, start in self._known.items()
        }

    def leftover(self, slot: int, known: int) -> list[int]:
        """Return none: they may not have been sampled yet."""
        del slot, known
        return []


def _pinned_like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
