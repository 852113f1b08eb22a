from pathlib import Path

import pytest

from flower_strategy.device.memory import available_memory

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
