import math
import time

import pytest

from floe_plugins.errors import ConfigError
from flower_strategy.device.hardware import (
    DEVICE_CLASSES,
    GIB,
    Device,
    Stopwatch,
    parse_device,
    simulated_device,
    this_device,
)
from flower_strategy.device.memory import available_memory


def test_classes_are_dealt_out_in_turn() -> None:
    names = [simulated_device(("phone", "laptop"), node).name for node in range(4)]
    assert names == ["phone", "laptop", "phone", "laptop"]
    assert DEVICE_CLASSES["phone"].slowdown > DEVICE_CLASSES["laptop"].slowdown


def test_a_class_can_be_written_out() -> None:
    device = parse_device("watch:0.5:12:0.1")
    assert device == Device(
        name="watch", memory_bytes=GIB // 2, slowdown=12.0, bandwidth=1e5, simulated=True
    )
    assert device.upload_seconds(200_000) == pytest.approx(2.0)


@pytest.mark.parametrize("text", ["fridge", "watch:1:2", "watch:1:2:x", "watch:0:1:1", ":1:1:1"])
def test_what_is_no_device_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match=f"devices has '{text}'"):
        parse_device(text)


def test_the_real_machine_is_measured_within_its_limits() -> None:
    device = this_device({})
    assert 0 < device.memory_bytes <= available_memory() * 1.5
    assert device.bandwidth == math.inf
    assert not device.simulated
    limited = this_device({"device": "board", "memory-gib": 0.25, "bandwidth-mbps": 2.5})
    assert limited.name == "board"
    assert limited.memory_bytes == GIB // 4
    assert limited.bandwidth == 2.5e6


def test_a_wrong_node_config_is_named() -> None:
    with pytest.raises(ConfigError, match="bandwidth-mbps='fast'"):
        this_device({"bandwidth-mbps": "fast"})


def test_the_virtual_clock_counts_work_and_not_waiting() -> None:
    slow = Device(name="slow", memory_bytes=1, slowdown=10.0, simulated=True)
    waiting = Stopwatch(slow, threads=1)
    time.sleep(0.2)
    assert waiting.seconds() < 1.0
    working = Stopwatch(slow, threads=1)
    start = time.process_time()
    while time.process_time() - start < 0.1:
        pass
    assert working.seconds() == pytest.approx(1.0, rel=0.5)


def test_a_real_device_counts_wall_time() -> None:
    watch = Stopwatch(Device(name="real", memory_bytes=1), threads=2)
    time.sleep(0.1)
    assert watch.seconds() >= 0.1


@pytest.mark.parametrize("waits", [False, True])
def test_a_slow_device_reports_its_slowdown_and_its_upload(waits: bool) -> None:
    slow = Device(
        name="slow", memory_bytes=1, slowdown=6.0, bandwidth=1e6, simulated=True, waits=waits
    )
    began = time.perf_counter()
    watch = Stopwatch(slow, threads=1)
    work = time.process_time()
    while time.process_time() - work < 0.05:
        pass
    worked = time.perf_counter() - began
    reported = watch.finish(upload_bytes=100_000)
    wall = time.perf_counter() - began
    if waits:
        assert reported == pytest.approx(6 * worked + 0.1, rel=0.2)
        assert reported == pytest.approx(wall, abs=0.005)
    else:
        assert reported == pytest.approx(6 * 0.05 + 0.1, rel=0.2)
        assert wall < worked + 0.05


def test_a_device_that_waits_cannot_be_faster_than_the_machine_and_says_so() -> None:
    fast = Device(name="fast", memory_bytes=1, slowdown=0.1, simulated=True, waits=True)
    watch = Stopwatch(fast, threads=1)
    time.sleep(0.1)
    assert watch.finish(upload_bytes=1000) >= 0.1


def test_a_real_device_does_not_wait_for_the_upload_that_is_still_to_come() -> None:
    began = time.perf_counter()
    watch = Stopwatch(Device(name="real", memory_bytes=1, bandwidth=1e3), threads=1)
    assert watch.finish(upload_bytes=10_000) == pytest.approx(10.0, rel=0.1)
    assert time.perf_counter() - began < 1.0
