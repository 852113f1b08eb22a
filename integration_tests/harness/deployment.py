"""A SuperLink and SuperNodes as processes on loopback, by the commands of the how-to page."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import psutil

from flower_strategy.data.embedded import make_examples
from integration_tests.harness.flower_runs import end_processes, flower_environment, stage_app
from integration_tests.harness.markdown import named_blocks, titled_blocks
from integration_tests.harness.processes import end_all, free_port, spawn, tail

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "deployment.md"
NODES = ("phone", "board", "laptop", "desktop")

_PORTS = ("9091", "9092", "9093", "9094", "9095", "9096", "9097", "9098", "9099")
_REPLACEMENT = re.compile(r"^\| `(?P<old>[^`]+)` \| (?:`(?P<new>[^`]+)` )?\|$", re.MULTILINE)
_HTTP_SINCE = (1, 41)

Found = TypeVar("Found")


@dataclass
class Deployment:
    """One federation in its own folder, which holds the staged app, keys and data.

    Attributes
    ----------
    folder : Path
        Where the commands run.
    env : Mapping[str, str]
        Their environment.
    ports : Mapping[str, str]
        The page's ports, and those that stand for them here.
    processes : dict[str, subprocess.Popen[bytes]]
        Running processes, by the block's name.
    """

    folder: Path
    env: Mapping[str, str]
    ports: Mapping[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def own(self, code: str) -> str:
        """Return the page's text for the installed Flower, with the test's ports and folders."""
        if _flower() >= _HTTP_SINCE:
            for old, new in replacements().items():
                code = code.replace(old, new)
        for documented, own in self.ports.items():
            code = re.sub(rf"\b{documented}\b", own, code)
        code = code.replace("/home/me/floe", str(self.folder)).replace("0.0.0.0", "127.0.0.1")
        return re.sub(r"(?<!DNS:)(?<!CN=)superlink\.example\.org", "127.0.0.1", code)

    def block(self, name: str, extra: Mapping[str, str] | None = None) -> str:
        """Return a block of the page, with the test's keys in its run configuration."""
        code = self.own(named_blocks(PAGE)[name]).strip()
        for key, value in (extra or {}).items():
            code, replaced = re.subn(rf"(?<=[ \"]){key}=[^ \"]+", f"{key}={value}", code)
            if not replaced:
                assert code.endswith('"')
                code = f'{code[:-1]} {key}={value}"'
        return code

    def run(self, name: str) -> str:
        """Run a block that ends, and return what it printed."""
        return self.shell(self.block(name))

    def shell(self, code: str) -> str:
        """Run commands that end, and return what they printed."""
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", code],
            cwd=self.folder,
            env=dict(self.env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}"
        return done.stdout

    def start(
        self, name: str, extra: Mapping[str, str] | None = None, *, code: str = ""
    ) -> subprocess.Popen[bytes]:
        """Start a block that serves or takes long; its output is in `log`."""
        # In production every SuperNode has its own machine, and so its own home.
        env = {**self.env}
        if name.startswith("node-"):
            env["FLWR_HOME"] = str(self.folder / f"home-{name}")
        process = spawn(
            ["bash", "-euc", f"exec {code or self.block(name, extra)}"],
            log=self.log(name),
            env=env,
            cwd=self.folder,
        )
        self.processes[name] = process
        return process

    def start_superlink(self) -> None:
        """Start the SuperLink and wait until it takes commands."""
        process = self.start("superlink")

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", int(self.ports["9093"]))) == 0

        wait_for(listens, seconds=120, why=lambda: self.logs("superlink"), alive=process)

    def log(self, name: str) -> Path:
        """Return the file that a started block writes to."""
        return self.folder / f"{name}.log"

    def logs(self, *names: str) -> str:
        """Return the last lines of some blocks' logs."""
        return "\n".join(f"{name}:\n{tail(self.log(name))}" for name in names)

    def wait_for(self, name: str, pattern: str, *, seconds: float, ended: bool = False) -> str:
        """Wait until the log of a started block has a match, and return it."""

        def look() -> str:
            found = re.search(pattern, self.log(name).read_text(errors="replace"))
            return found[0] if found else ""

        return wait_for(
            look,
            seconds=seconds,
            why=lambda: f"{name} does not say {pattern!r}:\n{tail(self.log(name), 60)}",
            alive=None if ended else self.processes[name],
        )

    def kill(self, name: str) -> None:
        """Kill a block's processes, as a power cut would."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)

    def app_process(self, name: str, command: str) -> psutil.Process | None:
        """Return the process of this command below a started block, if there is one."""
        try:
            for child in psutil.Process(self.processes[name].pid).children(recursive=True):
                if any(Path(part).name == command for part in child.cmdline()[:2]):
                    return child
        except psutil.NoSuchProcess:
            return None
        return None


@contextmanager
def deployment(folder: Path) -> Iterator[Deployment]:
    """Prepare a folder as the page says; end every process started from it."""
    stage_app(ROOT, folder)
    env, marker = flower_environment(folder / "flower-home", {"OMP_NUM_THREADS": "1"})
    env = {key: value for key, value in env.items() if key != "PYTHONDONTWRITEBYTECODE"}
    here = Deployment(folder, env, dict(zip(_PORTS, map(str, _free_ports()), strict=True)))
    for title, code in titled_blocks(PAGE).items():
        # The only file of the page outside the folder is Flower's own.
        home = title.startswith("~/.flwr/")
        path = folder / ("flower-home" if home else "") / Path(title).name
        path.parent.mkdir(exist_ok=True)
        path.write_text(here.own(code))
    try:
        yield here
    finally:
        end_all(reversed(here.processes.values()), grace_s=5)
        end_processes(marker)


def wait_for(
    look: Callable[[], Found | None],
    *,
    seconds: float,
    why: Callable[[], str],
    alive: subprocess.Popen[bytes] | None = None,
) -> Found:
    """Return what `look` finds, looking again until it finds something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, why()
        assert alive is None or alive.poll() is None, f"it ended; {why()}"
        time.sleep(0.1)
    return found


def write_data(folder: Path, name: str, task: str, seed: int) -> None:
    (folder / "data").mkdir(exist_ok=True)
    rows = [
        json.dumps({"prompt": example.prompt, "response": example.response})
        for example in make_examples(task, count=24, seed=seed)
    ]
    (folder / "data" / f"{name}.jsonl").write_text("\n".join(rows), "utf-8")


def online(here: Deployment) -> int:
    return here.run("list").count("online")


def replacements() -> dict[str, str]:
    """Return what the page replaces for the Flower that serves over HTTPS, old by new."""
    section = PAGE.read_text("utf-8").partition("## Flower 1.41")[2]
    return {match["old"]: match["new"] or "" for match in _REPLACEMENT.finditer(section)}


def _flower() -> tuple[int, ...]:
    return tuple(int(part) for part in version("flwr").split(".")[:2])


def _free_ports() -> list[int]:
    ports: set[int] = set()
    while len(ports) < len(_PORTS):
        ports.add(free_port())
    return sorted(ports)
