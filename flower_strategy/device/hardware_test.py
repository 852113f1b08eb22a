import math
import time
from pathlib import Path

import pytest

from floe_plugins.errors import ConfigError
from flower_strategy.device.hardware import (
    DEVICE_CLASSES,
    GIB,
    Device,
    Stopwatch,
    available_memory,
    parse_device,
    simulated_device,
    this_device,
)


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
    assert device.download_seconds(200_000) == pytest.approx(0.25)


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
    assert watch.finish(upload_bytes=0, download_bytes=80_000) == pytest.approx(10.0, rel=0.1)
    assert time.perf_counter() - began < 1.0


MIB = 1024**2


def tree(root: Path, files: dict[str, str | int]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def meminfo(megabytes: int) -> dict[str, str | int]:
    return {"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {megabytes * 1024} kB\nBuffers: 2 kB"}


MOUNT_2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
MOUNT_1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 {top} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
)


def test_without_control_groups_it_is_the_machine_s(tmp_path: Path) -> None:
    assert available_memory(root=tree(tmp_path, meminfo(700))) == 700 * MIB


@pytest.mark.parametrize("tight", ["", "user.slice/", "user.slice/app.scope/"])
def test_every_group_above_can_be_the_tightest(tmp_path: Path, tight: str) -> None:
    files: dict[str, str | int] = {
        **meminfo(7000),
        "proc/self/cgroup": "0::/user.slice/app.scope",
        "proc/self/mountinfo": MOUNT_2,
    }
    for group in ("", "user.slice/", "user.slice/app.scope/"):
        files[f"sys/fs/cgroup/{group}memory.max"] = 500 * MIB if group == tight else "max"
        files[f"sys/fs/cgroup/{group}memory.high"] = "max"
        files[f"sys/fs/cgroup/{group}memory.current"] = 120 * MIB
    assert available_memory(root=tree(tmp_path, files)) == 380 * MIB


def test_a_sibling_s_limit_does_not_count(tmp_path: Path) -> None:
    files = {
        **meminfo(7000),
        "proc/self/cgroup": "0::/mine",
        "proc/self/mountinfo": MOUNT_2,
        "sys/fs/cgroup/other/memory.max": MIB,
        "sys/fs/cgroup/mine/memory.max": 900 * MIB,
        "sys/fs/cgroup/mine/memory.current": 0,
    }
    assert available_memory(root=tree(tmp_path, files)) == 900 * MIB


def test_file_pages_that_can_be_dropped_are_free_and_the_throttling_limit_counts(
    tmp_path: Path,
) -> None:
    files = {
        **meminfo(7000),
        "proc/self/cgroup": "0::/",
        "proc/self/mountinfo": MOUNT_2,
        "sys/fs/cgroup/memory.max": 900 * MIB,
        "sys/fs/cgroup/memory.high": 600 * MIB,
        "sys/fs/cgroup/memory.current": 300 * MIB,
        "sys/fs/cgroup/memory.stat": f"anon {50 * MIB}\ninactive_file {250 * MIB}\nactive_file 0",
    }
    assert available_memory(root=tree(tmp_path, files)) == 550 * MIB


def test_a_group_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    files = {
        **meminfo(7000),
        "proc/self/cgroup": "0::/",
        "proc/self/mountinfo": MOUNT_2,
        "sys/fs/cgroup/memory.max": 100 * MIB,
        "sys/fs/cgroup/memory.current": 101 * MIB,
    }
    assert available_memory(root=tree(tmp_path, files)) == 0


@pytest.mark.parametrize("top", ["/", "/docker/abc"])
def test_version_1_is_read_with_and_without_a_container_s_mount(tmp_path: Path, top: str) -> None:
    group = "docker/abc/job/" if top == "/" else "job/"
    unlimited = 9223372036854771712
    files = {
        **meminfo(7000),
        "proc/self/cgroup": "4:memory:/docker/abc/job\n3:cpu,cpuacct:/elsewhere",
        "proc/self/mountinfo": MOUNT_1.format(top=top),
        "sys/fs/cgroup/memory/memory.limit_in_bytes": unlimited,
        "sys/fs/cgroup/memory/memory.usage_in_bytes": 500 * MIB,
        f"sys/fs/cgroup/memory/{group}memory.limit_in_bytes": 400 * MIB,
        f"sys/fs/cgroup/memory/{group}memory.usage_in_bytes": 300 * MIB,
        f"sys/fs/cgroup/memory/{group}memory.stat": f"total_inactive_file {100 * MIB}",
    }
    assert available_memory(root=tree(tmp_path, files)) == 200 * MIB


def test_a_group_outside_of_what_is_mounted_leaves_the_mounted_one_s_limit(
    tmp_path: Path,
) -> None:
    files = {
        **meminfo(7000),
        "proc/self/cgroup": "0::/../../other",
        "proc/self/mountinfo": MOUNT_2,
        "sys/fs/cgroup/memory.max": 100 * MIB,
    }
    assert available_memory(root=tree(tmp_path, files)) == 100 * MIB


def test_this_machine_has_memory_left() -> None:
    assert MIB < available_memory() < 2**50
