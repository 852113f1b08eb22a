import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "vllm", "flwr", "peft", "sklearn", "numpy", "pydantic")


@pytest.mark.parametrize(
    "module",
    [
        "floe_plugins",
        "floe_plugins.gate",
        "floe_plugins.manager",
        "floe_plugins.models",
        "floe_plugins.routers",
        "floe_plugins.cli",
    ],
)
def test_importing_pulls_in_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
