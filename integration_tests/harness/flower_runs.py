"""Running a Flower App in the local simulation, from start to the last process it leaves behind.

``flwr run`` starts a local SuperLink that lives on after the command, and Ray starts processes of
its own. All of them inherit the environment of the command, so a marker in it finds every one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import tomllib
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from integration_tests.harness.processes import free_port

_MARKER = "FLOE_RUN_MARKER"
_GRACE_SECONDS = 10.0


@dataclass
class RunResult:
    """The outcome of a run.

    Attributes
    ----------
    status : str
        Flower's status at the end: ``finished:completed`` on success, else for example
        ``finished:failed``, ``timeout`` or ``not started``.
    lines : list[str]
        The output, line by line, without colours at the ends.
    seconds : float
        Wall seconds from the command to the end of its output.
    """

    status: str
    lines: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the run completed."""
        return self.status == "finished:completed"


def run_flower_app(
    app_dir: Path | str,
    run_config: Mapping[str, str | int | float | bool],
    num_supernodes: int,
    flwr_home: Path | str,
    on_line: Callable[[str], None] | None = None,
    env: Mapping[str, str] | None = None,
    *,
    cpus_per_client: int = 1,
    timeout: float = 1800.0,
    staged: bool = True,
) -> RunResult:
    """Run a Flower App as a user does, ``flwr run --stream`` in its folder, and clean up.

    Parameters
    ----------
    app_dir : Path
        Folder with the app's pyproject.toml; the command runs there.
    run_config : Mapping
        The values of ``--run-config``.
    num_supernodes : int
        Number of simulated nodes.
    flwr_home : Path
        Flower's folder for this run, created if absent; a fresh one gives a fresh SuperLink.
    on_line : Callable[[str], None], optional
        Called with every line as it arrives.
    env : Mapping[str, str], optional
        Further environment variables.
    cpus_per_client : int (default: 1)
        Processor cores per client; clients beyond what the machine has wait.
    timeout : float (default: 1800.0)
        Seconds after which the run is ended.
    staged : bool (default: True)
        Give Flower a copy of the app that holds only what the bundle will hold. Else it looks at
        every file below the folder, which takes half a minute where there is a ``.venv``. The
        command runs in the app's folder either way, so relative paths mean the same.

    Returns
    -------
    RunResult
        How it ended. Every process of the run is gone by then, also after an exception or Ctrl-C.
    """
    started = time.monotonic()
    home = Path(flwr_home).absolute()
    home.mkdir(parents=True, exist_ok=True)
    environment, marker = flower_environment(home, env)
    app = stage_app(Path(app_dir), home / "staged-app") if staged else Path(".")
    lines: list[str] = []
    late = threading.Event()
    with _ended_at_exit(marker):
        command = subprocess.Popen(
            _command(app, run_config, num_supernodes, cpus_per_client),
            cwd=app_dir,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )

        def end_late() -> None:
            late.set()
            end_processes(marker)

        watchdog = threading.Timer(timeout, end_late)
        watchdog.start()
        try:
            assert command.stdout is not None
            for line in command.stdout:
                lines.append(line.rstrip())
                if on_line is not None:
                    on_line(lines[-1])
            command.wait()
        finally:
            watchdog.cancel()
        status = "timeout" if late.is_set() else _status(app_dir, environment)
    return RunResult(status, lines, time.monotonic() - started)


def end_processes(marker: str) -> None:
    """End every process that carries a run's marker: first asked, then forced."""
    asked = False
    deadline = time.monotonic() + _GRACE_SECONDS
    while found := list(_processes(marker)):
        forced = time.monotonic() > deadline
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                if forced:
                    process.kill()
                elif not asked:
                    process.terminate()
        asked = True
        psutil.wait_procs(found, timeout=0.5)


def stage_app(app_dir: Path, copy: Path) -> Path:
    """Copy pyproject.toml and the files that its ``fab-include`` names; return the copy."""
    settings = tomllib.loads((app_dir / "pyproject.toml").read_text("utf-8"))
    patterns = settings["tool"]["flwr"]["app"].get("fab-include", ["**/*.py"])
    for pattern in ("pyproject.toml", *patterns):
        for source in app_dir.glob(pattern):
            target = copy / source.relative_to(app_dir)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    return copy


def _command(
    app: Path,
    run_config: Mapping[str, str | int | float | bool],
    num_supernodes: int,
    cpus: int,
) -> list[str]:
    flwr = Path(sys.executable).with_name("flwr")
    command = [str(flwr), "run", str(app), "--stream"]
    if run_config:
        written = " ".join(f"{key}={_toml(value)}" for key, value in run_config.items())
        command += ["--run-config", written]
    federation = f"num-supernodes={num_supernodes} client-resources-num-cpus={cpus}"
    return [*command, "--federation-config", federation]


def _toml(value: str | int | float | bool) -> str:
    if isinstance(value, str):
        # Flower's parser takes neither escapes nor both quotes in one value.
        quote = "'" if "'" not in value else '"'
        return f"{quote}{value}{quote}"
    return json.dumps(value)


def flower_environment(home: Path, extra: Mapping[str, str] | None) -> tuple[dict[str, str], str]:
    """Return the environment of a run, and the marker by which `end_processes` finds all of it."""
    marker = uuid.uuid4().hex
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {
        **os.environ,
        "PATH": path,
        "PYTHONUNBUFFERED": "1",
        # Else Flower installs the app's dependencies into an environment of their own.
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        # Flower's process talks gRPC while Ray forks its servers from it; gRPC's fork handlers then
        # crash the child now and then, and Ray waits in vain (grpc/grpc issue 31885).
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "FLWR_HOME": str(home),
        # The local SuperLink's port: the first up to Flower 1.32, the second in 1.41.
        "FLWR_LOCAL_CONTROL_API_PORT": str(free_port()),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(free_port()),
        **(extra or {}),
        _MARKER: marker,
    }
    return environment, marker


def _status(app_dir: Path | str, environment: Mapping[str, str]) -> str:
    listed = subprocess.run(
        [str(Path(sys.executable).with_name("flwr")), "ls", "--format", "json"],
        cwd=app_dir,
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    try:
        runs = json.loads(listed.stdout)["runs"]
    except (json.JSONDecodeError, KeyError):
        return "not started"
    return str(runs[0]["status"]) if runs else "not started"


@contextlib.contextmanager
def _ended_at_exit(marker: str) -> Iterator[None]:
    try:
        yield
    finally:
        end_processes(marker)


def _processes(marker: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if (
                process.pid != os.getpid()
                and process.environ().get(_MARKER) == marker
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                yield process
