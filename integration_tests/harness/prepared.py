"""vLLM's processes as forks of one that has imported it: servers start in a fifth of the time.

A server on a CPU is three processes, each of which imports vLLM and torch for a dozen seconds. vLLM
spawns them there because it binds OpenMP's threads by variables that are read when a process
starts; elsewhere it forks. Servers that are started here fork too, and each of their processes has
one thread, which is bound to its core all the same. All that runs is vLLM's own code.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import runpy
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from subprocess import TimeoutExpired

SERVER = "vllm.entrypoints.openai.api_server"

#: What the processes of servers import.
_MODULES = (
    SERVER,
    "vllm.entrypoints.launchers.render.entry",
    "vllm.v1.engine.core",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.llama",
    "vllm_logits_processor.processor",
)

#: What libraries read when they are imported: threads that they started then would be lost in a
#: fork, and vLLM's processes, which are daemons, may not start others to compile.
_AT_IMPORT = {
    "OMP_NUM_THREADS": "1",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "TORCHINDUCTOR_CPP_DYNAMIC_THREADS": "1",
}

#: Of a call of `prepare`: further environment variables of forks.
_asked: list[dict[str, str]] = []


def prepare(*, bind: bool) -> None:
    """Have `vllm_servers.running` fork the servers of this process from now on.

    Where other processes start servers too, theirs are bound to the same cores: then `bind` is
    False, and the machine chooses.
    """
    _asked.append({} if bind else {"VLLM_CPU_OMP_THREADS_BIND": "nobind"})


def begin_importing() -> None:
    """Begin what the first `fork` would begin: a process that imports vLLM, for a dozen seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_MODULES))
    with _environment(_AT_IMPORT):
        forkserver.ensure_running()


def is_prepared() -> bool:
    """Tell whether `prepare` was called."""
    return bool(_asked)


class Forked:
    """A fork, which leads a group of its own; a `processes.Child`."""

    def __init__(self, process: ForkServerProcess) -> None:
        assert process.pid is not None
        self.pid = process.pid
        self._process = process
        # A signal to its group must find it there.
        while self.poll() is None and not _leads(self.pid):
            time.sleep(0.01)

    @property
    def returncode(self) -> int | None:
        """Its exit status once it has ended."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return its exit status, or None while it lives."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit status once it has ended."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutExpired(f"fork {self.pid}", timeout or 0.0)
        return self._process.exitcode


def fork(module: str, arguments: Sequence[str], *, log: Path, env: Mapping[str, str]) -> Forked:
    """Run a module that uses vLLM as ``python -m`` does, in a fork of the prepared process.

    Parameters
    ----------
    module : str
    arguments : sequence of str
        What follows the module on a command line.
    log : Path
        Where its output is appended.
    env : mapping of str to str
        Further environment variables. Those that count at the start of an interpreter or at the
        import of vLLM do nothing; folders of ``PYTHONPATH`` are searched.
    """
    begin_importing()
    context = multiprocessing.get_context("forkserver")
    variables = {**os.environ, **env, **(_asked[-1] if _asked else {})}
    process = context.Process(target=_begin, args=(module, list(arguments), str(log), variables))
    process.start()
    return Forked(process)


def run(module: str, arguments: Sequence[str]) -> None:
    """Run a module that uses vLLM as the main one here; what it would spawn it forks."""
    os.environ.update(_AT_IMPORT)
    import torch
    from vllm import envs
    from vllm.model_executor.models import registry

    torch.set_num_threads(1)
    os.register_at_fork(after_in_child=_bind)
    # Not the variable of this name: vLLM sets that itself on CPUs.
    envs.environment_variables["VLLM_WORKER_MULTIPROC_METHOD"] = lambda: "fork"
    # A model is looked at in a process of its own lest CUDA be initialised here.
    vars(registry)["_run_in_subprocess"] = lambda look: look()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _begin(module: str, arguments: Sequence[str], log: str, variables: Mapping[str, str]) -> None:
    os.setsid()
    sink = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.environ.clear()
    os.environ.update(variables)
    sys.path[:0] = filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))
    run(module, arguments)


def _bind() -> None:
    """Do what OpenMP does where a process begins with vLLM's variables."""
    if places := os.environ.get("OMP_PLACES"):
        os.sched_setaffinity(0, {int(core) for core in re.findall(r"\d+", places)})


def _leads(pid: int) -> bool:
    try:
        return os.getpgid(pid) == pid
    except ProcessLookupError:
        return False


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


if __name__ == "__main__":
    run(SERVER, sys.argv[1:])
