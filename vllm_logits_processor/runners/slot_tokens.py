"""Reads the tokens of V2's request slots before the forward pass, without waiting for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcRequestState


class TokenReader(Protocol):
    """Reads new tokens in two steps; work between them does not wait.

    Attributes
    ----------
    waits : bool
        Whether `finish` may wait for the last step's tokens and should be called late.
    """

    waits: bool

    def begin(self, wanted: Mapping[int, tuple[int, int]]) -> None:
        """Start reading.

        Parameters
        ----------
        wanted : mapping of slot to (int, int)
            Number of known tokens of the slot, and most further ones.
        """

    def finish(self) -> dict[int, list[int]]:
        """Return the tokens of each slot, from the first unknown one on."""

    def leftover(self, slot: int, known: int) -> list[int]:
        """Return the unknown tokens of a slot that is given to another request in this step.

        Empty if they cannot be read without waiting.
        """


def token_reader(states: LogitsProcRequestState) -> TokenReader:
    """Return the reader for the device that the slots' tokens are on."""
    if states.device.type == "cpu":
        return HostReader(states)
    return DeviceReader(states, host=pinned_tokens(states.all_token_ids))


def pinned_tokens(buffer: Any) -> npt.NDArray[np.int32] | None:
    """Return the host's side of vLLM's tokens, shape (slots, length); None if there is none.

    vLLM keeps them in pinned memory that the device writes to, except where n-gram drafts are found
    on the device. The attribute is not public: where it is gone, tokens are copied.
    """
    host: object = getattr(getattr(buffer, "_uva_buf", None), "np", None)
    return host if isinstance(host, np.ndarray) else None


class HostReader:
    """Reads on a CPU, where all tokens are available when the step begins."""

    waits = False

    def __init__(self, states: LogitsProcRequestState) -> None:
        self._tokens = states.all_token_ids.gpu
        self._lengths = states.total_len.gpu
        self._wanted: Mapping[int, tuple[int, int]] = {}

    def begin(self, wanted: Mapping[int, tuple[int, int]]) -> None:
        """Note what to read."""
        self._wanted = wanted

    def finish(self) -> dict[int, list[int]]:
        """Read the tokens."""
        return {
            slot: self._tokens[slot, known : int(self._lengths[slot])].tolist()
            for slot, (known, _) in self._wanted.items()
        }

    def leftover(self, slot: int, known: int) -> list[int]:
        """Read the tokens: vLLM overwrites them only after it has notified the processors."""
        tokens: list[int] = self._tokens[slot, known : int(self._lengths[slot])].tolist()
        return tokens


class DeviceReader:
    """Reads from an accelerator, on its own stream.

    When a step begins, the last step's sampling may still be queued. One copy, of all lengths,
    waits for it on the device, and `finish` waits for that copy, never for the current step's
    forward pass. The tokens are in the host's memory by then.

    Parameters
    ----------
    host : int32 array, shape (slots, length), optional
        The host's side of the tokens; without it, each slot's new tokens are copied as well.
    """

    waits = True

    def __init__(
        self, states: LogitsProcRequestState, *, host: npt.NDArray[np.int32] | None = None
    ) -> None:
        self._states = states
        self._host = host
        self._device = torch.get_device_module(states.device)
        self._side = self._device.Stream(states.device)
        self._done = self._device.Event()
        self._wanted: Mapping[int, tuple[int, int]] = {}
        self._lengths = torch.empty(0, dtype=torch.int32)
        self._copies: dict[int, torch.Tensor] = {}

    def begin(self, wanted: Mapping[int, tuple[int, int]]) -> None:
        """Queue the copies."""
        # Set only once all copies are queued: a fault before leaves nothing to finish.
        self._wanted, self._copies = {}, {}
        if not wanted:
            return
        lengths, tokens = self._states.total_len.gpu, self._states.all_token_ids.gpu
        self._side.wait_stream(self._device.current_stream())
        with self._device.stream(self._side):
            self._lengths = _copied(lengths)
            if self._host is None:
                for slot, (start, new) in wanted.items():
                    self._copies[slot] = _copied(tokens[slot, start : start + new])
            self._done.record(self._side)
        self._wanted = wanted

    def finish(self) -> dict[int, list[int]]:
        """Wait for the lengths, and read the tokens."""
        if not self._wanted:
            return {}
        self._done.synchronize()
        lengths = self._lengths.tolist()
        if self._host is not None:
            return {
                slot: self._host[slot, start : lengths[slot]].tolist()
                for slot, (start, _) in self._wanted.items()
            }
        return {
            slot: self._copies[slot][: max(0, lengths[slot] - start)].tolist()
            for slot, (start, _) in self._wanted.items()
        }

    def leftover(self, slot: int, known: int) -> list[int]:
        """Return none: they may not have been sampled yet."""
        del slot, known
        return []


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    """Queue a copy to the host."""
    pinned = tensor.device.type != "cpu"
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=pinned)
    return copy.copy_(tensor, non_blocking=True)
