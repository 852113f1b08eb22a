from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from floe_plugins import isolation
from floe_plugins.isolation import Caller, Failed, IsolationThread, PluginCallError, failures

HOOK = "floe_register_routers"


@pytest.fixture(autouse=True)
def no_failures_yet() -> Iterator[None]:
    isolation._counts.clear()
    yield
    isolation._counts.clear()


def caller(timeout_s: float | None = 5.0, *, name: str = "coin") -> Caller:
    return Caller(hook=HOOK, plugin="rash", name=name, timeout_s=timeout_s)


def reason(calling: Caller, function: object) -> str:
    with pytest.raises(PluginCallError) as caught:
        calling.call(function)  # type: ignore[arg-type]
    return caught.value.reason


def fails() -> int:
    raise LookupError("joe@example.org")


@pytest.mark.parametrize("timeout_s", [5.0, None])
def test_an_answer_comes_through(timeout_s: float | None) -> None:
    calling = caller(timeout_s)
    assert [calling.call(lambda: 1), calling.call(lambda: 2)] == [1, 2]
    assert failures() == {}


@pytest.mark.parametrize("timeout_s", [5.0, None])
def test_an_exception_is_counted_and_logged_by_its_type_alone(
    timeout_s: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(PluginCallError) as caught:
        caller(timeout_s).call(fails)
    assert caught.value.reason == "LookupError"
    assert failures() == {Failed(HOOK, "rash", "coin", "LookupError"): 1}
    assert "coin of plugin rash failed" in caplog.text
    assert "LookupError" in caplog.text
    assert "joe" not in caplog.text
    # A logged traceback of the error must not show the plugin's own message either.
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


def test_the_end_of_the_process_is_not_for_a_plugin_to_decide() -> None:
    calling = caller()

    def leaves() -> int:
        raise SystemExit(3)

    assert reason(calling, leaves) == "SystemExit"
    assert calling.call(lambda: 1) == 1


def test_errors_that_the_hook_allows_pass() -> None:
    with pytest.raises(LookupError):
        caller(None).call(fails, passing=(LookupError,))
    assert failures() == {}


def test_a_late_call_is_given_up_and_the_next_ones_do_not_wait() -> None:
    calling = caller(0.1, name="hangs")
    go_on = threading.Event()
    assert reason(calling, go_on.wait) == "late"
    begun = time.monotonic()
    assert [reason(calling, lambda: 1) for _ in range(50)] == ["stuck"] * 50
    # Waiting calls would take 5 s.
    assert time.monotonic() - begun < 1.0
    threads = [each for each in threading.enumerate() if each.name == "floe-plugin-hangs"]
    go_on.set()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and calling._thread._current is not None:
        time.sleep(0.01)
    assert calling.call(lambda: 1) == 1
    assert len(threads) == 1


def test_what_fails_at_every_token_is_logged_at_powers_of_ten(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calling = caller(None)
    with caplog.at_level(logging.WARNING):
        for _ in range(120):
            reason(calling, fails)
    said = [record.getMessage().partition("(")[2] for record in caplog.records]
    assert said == ["1 so far).", "10 so far).", "100 so far)."]
    assert list(failures().values()) == [120]


_FORKED = """
import os, threading, time
from floe_plugins.isolation import IsolationThread, PluginCallError

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
