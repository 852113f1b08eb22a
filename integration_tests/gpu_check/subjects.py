"""All subjects, and how one is run."""

from __future__ import annotations

import platform
import time
import traceback
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from integration_tests.gpu_check.sizes import Sizes

#: Module of this package -> what it shows. The last one needs vLLM.
SUBJECTS = {
    "kernels": "the kernels of a step",
    "slots": "the reader of V2's slots",
    "steps": "steps around a forward pass",
    "local_expert": "the in-process expert",
    "training": "federated training",
    "serving": "vLLM with Floe",
}
_PACKAGES = ("torch", "triton", "numba", "transformers", "vllm")


def run(name: str, device: torch.device, sizes: Sizes, **options: Any) -> dict[str, Any]:
    """Run one subject; return ``state``, and with it values, failures or a reason.

    The state is ``passed``, ``failed``, or ``not run`` where a package or a model is missing.
    """
    from floe_plugins.errors import FloeError

    begun = time.perf_counter()
    try:
        subject = import_module(f"integration_tests.gpu_check.{name}")
        values = subject.check(device, sizes, **options)
    except (ImportError, FloeError) as error:
        return {"state": "not run", "reason": str(error)}
    # Kernels and engines fail in ways of their own; the other subjects are to be run all the same.
    except (RuntimeError, ValueError, OSError, AttributeError, TypeError, AssertionError) as error:
        traceback.print_exc()
        return {"state": "failed", "failures": [f"{type(error).__name__}: {error}"[:2000]]}
    failures = subject.failures(values)
    return {
        "state": "failed" if failures else "passed",
        "failures": failures,
        "seconds": time.perf_counter() - begun,
        "values": values,
    }


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the figures depend on."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    return {
        "gpu": gpu,
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        **{package: _version(package) for package in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
