"""Says why training runs on the CPU beside a GPU."""

from __future__ import annotations

import logging
import os
from functools import lru_cache
from pathlib import Path

import torch

logger = logging.getLogger("flwr")


def idle_gpu(*, simulated: bool, root: Path = Path("/")) -> str:
    """Return one sentence on why this process does not use the machine's NVIDIA GPU.

    Parameters
    ----------
    simulated : bool
        Whether the device is simulated.
    root : Path (default: /)
        Where to look for ``dev``.

    Returns
    -------
    str
        Empty where there is none.
    """
    # CUDA shows what CUDA_VISIBLE_DEVICES leaves; the driver's files show all.
    if not any((root / "dev").glob("nvidia[0-9]*")):
        return ""
    start = "Training runs on the CPU although this machine has a GPU: "
    if torch.version.cuda is None:
        return f"{start}torch {torch.__version__} is built without CUDA; install one with it."
    if simulated:
        return (
            f"{start}Flower gives simulated devices none; set client-resources-num-gpus in "
            "--federation-config, such as client-resources-num-gpus=0.25 for four devices at a "
            "time on each."
        )
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return f"{start}CUDA_VISIBLE_DEVICES is empty; name the GPU there, or unset it."
    return f"{start}torch cannot use it; see torch.cuda.init()."


@lru_cache
def warn_of_idle_gpu(device_type: str, *, simulated: bool) -> None:
    """Log `idle_gpu` once in a process that trains on its CPU."""
    if device_type == "cpu" and (sentence := idle_gpu(simulated=simulated)):
        logger.warning("%s", sentence)
