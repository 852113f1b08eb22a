"""Compiles what a step computes on the rows, at a server's start and not in its first step."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import torch

from floe_plugins.errors import ConfigError
from vllm_logits_processor.alignment.groups import ExpertTopK, step_groups
from vllm_logits_processor.alignment.maps import NOTHING, maps_from_firsts
from vllm_logits_processor.cells import Gains, SentGains
from vllm_logits_processor.leading_groups import LeadingGroups


def make_pass(device: torch.device | None = None, *, columns: int = 1) -> None:
    """Compile or load the pass over the rows.

    Parameters
    ----------
    device : torch.device, optional
        Where the logits are; a CPU if not given.
    columns : int
        Those of the logits.

    Raises
    ------
    ConfigError
        If the device is not a CPU, and there is no Triton for it.
    """
    for name in ("cover_sums", "group_search", "part_sums", "cpu_pass"):
        import_module(f"vllm_logits_processor.alignment.{name}")
    if device is None or device.type == "cpu":
        return
    try:
        import_module("vllm_logits_processor.alignment.device_pass")
    except ImportError as error:
        raise ConfigError(
            f"floe: the host's logits are on {str(device)!r}, and Triton is not there ({error}); "
            "accepted are a CPU, and devices with Triton."
        ) from error
    make_kernels(device, columns=columns)


def make_kernels(device: torch.device, *, columns: int) -> None:
    """Compile all kernels for a device and a number of columns, by a step of one row."""
    from vllm_logits_processor.alignment.device_pass import read_rows

    # One token on either side, which belongs to the other one by g alone.
    maps = maps_from_firsts(np.full(1, NOTHING, np.int32), np.zeros(1, np.int32))
    top = ExpertTopK(token_ids=np.zeros((1, 1), np.int64), logprobs=np.zeros((1, 1)))
    groups, rows = step_groups(maps, top), np.zeros(1, np.int64)
    logits = torch.zeros((1, columns), device=device)
    read_rows(logits, rows, groups, maps, token_ids=top.token_ids, caps=np.full(1, 0.5))
    gains = Gains(
        rows=rows,
        token_ids=top.token_ids,
        begins=groups.begins,
        sizes=groups.sizes,
        gains=np.zeros(3, np.float32),
        single_row=groups.single_row,
        single_token=groups.single_token,
        leaders=LeadingGroups(
            places=rows,
            experts=rows,
            link_begins=np.array([0, 1]),
            link_tokens=groups.single_token,
        ),
    )
    SentGains.to(device, gains.packed()).write(logits, maps)
