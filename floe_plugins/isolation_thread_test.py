"""What :mod:`floe_plugins.isolation_test` does not see through a `Caller`."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from floe_plugins.isolation_thread import IsolationThread, PluginCallError

_FORKED = """
import os, threading, time
from floe_plugins.isolation_thread import IsolationThread, PluginCallError

thread, begun = IsolationThread("test"), threading.Event()

def hang():
    begun.set()
    time.sleep(60)

def ask():
    try:
        thread.run(hang, deadline=time.monotonic() + 0.1)
    except PluginCallError as error:
        print("parent", error.reason, flush=True)

asking = threading.Thread(target=ask)
asking.start()
begun.wait()
child = os.fork()
if not child:
    time.sleep(0.2)
    print("child", thread.run(lambda: 42, deadline=time.monotonic() + 30), flush=True)
    os._exit(0)
os.waitpid(child, 0)
asking.join()
os._exit(0)
"""


def test_a_forked_process_has_a_thread_of_its_own_whatever_its_parents_was_at() -> None:
    command = [sys.executable, "-W", "ignore", "-c", _FORKED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert sorted(done.stdout.splitlines()) == ["child 42", "parent late"]


def test_a_deadline_that_has_passed_is_late_and_nothing_runs() -> None:
    thread = IsolationThread("test")
    ran: list[int] = []
    with pytest.raises(PluginCallError, match="late"):
        thread.run(lambda: ran.append(1), deadline=time.monotonic() - 1)
    assert thread.run(lambda: 2, deadline=time.monotonic() + 30) == 2
    assert ran == []


def test_after_it_was_closed_a_call_starts_it_again() -> None:
    thread = IsolationThread("test")
    for _ in range(2):
        assert thread.run(lambda: 3, deadline=time.monotonic() + 30) == 3
        worker = thread._thread
        assert worker is not None
        thread.close()
        worker.join(timeout=10)
        assert not worker.is_alive()
