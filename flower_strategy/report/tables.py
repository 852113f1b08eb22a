"""The page's headline, tables and settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flower_strategy.report.run import Round, Run, number
from flower_strategy.report.svg import element, escaped, table
from flower_strategy.report.text import bytes_text, number_text, seconds_text

_NOT_SETTINGS = ("format", "clusters", "devices")
_MOST_ROWS = 1000


def headline(run: Run) -> dict[str, Any]:
    """Return the figures that sum a run up; None where the run does not say."""
    before = _loss(run.rounds[0]) if run.rounds else None
    # The last round of a run may have ended without devices.
    later = [loss for entry in run.rounds[1:] if (loss := _loss(entry)) is not None]
    after = later[-1] if later else None
    devices = [done for entry in run.rounds for done in entry.devices.values()]
    noise = _part(run.manifest, "embedding").get("noise")
    seconds = [entry.device_seconds for entry in run.rounds if entry.device_seconds is not None]
    return {
        "rounds": sum(entry.number > 0 for entry in run.rounds),
        "devices": len(run.devices),
        "left_out": sum(device.rank is None for device in run.devices),
        "clusters": len(run.manifest["clusters"]),
        "loss_before": before,
        "loss_after": after,
        "bytes_down": sum(done.bytes_down for done in devices),
        "bytes_up": sum(done.bytes_up for done in devices),
        "refused": sum(len(entry.refused) for entry in run.rounds),
        "embedding_noise": number(noise),
        "server_seconds": sum(entry.seconds or 0.0 for entry in run.rounds),
        "device_seconds": sum(seconds) if seconds else None,
    }


def tiles(summary: Mapping[str, Any]) -> str:
    """Return the headline as HTML."""
    left_out = summary["left_out"]
    moved = summary["bytes_down"] + summary["bytes_up"]
    noise = summary["embedding_noise"]
    shown = [
        ("Rounds", str(summary["rounds"]), f"{seconds_text(summary['server_seconds'])} at server"),
        (
            "Devices",
            f"{summary['devices']:,}",
            f"{left_out} left out" if left_out else "all take part",
        ),
        ("Clusters", str(summary["clusters"]), "one adapter each"),
        (
            "Held-out loss",
            f"{number_text(summary['loss_before'])} → {number_text(summary['loss_after'])}",
            "nats per response token",
        ),
        (
            "Communication",
            bytes_text(moved),
            f"{bytes_text(summary['bytes_down'])} down, {bytes_text(summary['bytes_up'])} up",
        ),
        (
            "Refused replies",
            str(summary["refused"]),
            "see the table" if summary["refused"] else "none",
        ),
        (
            "Embedding noise",
            "not recorded" if noise is None else "none" if noise == 0 else number_text(noise),
            "on every number of a mean of unit vectors" if noise else "",
        ),
    ]
    if summary["device_seconds"] is not None:
        seconds = seconds_text(summary["device_seconds"])
        shown.append(("Time on devices", seconds, "slowest device of each round"))
    entries = (
        element(
            "div",
            element("dt", escaped(name)),
            element("dd", escaped(value), class_="value"),
            element("dd", escaped(beside)),
        )
        for name, value, beside in shown
    )
    return element("dl", *entries, class_="tiles")


def cluster_table(run: Run) -> str:
    """Return the clusters with their members and adapters."""
    rows = []
    for entry in run.manifest["clusters"]:
        members = entry.get("members")
        nodes = [str(node) for node in members] if isinstance(members, list) else []
        rows.append(
            (
                str(entry.get("name", "")),
                str(entry.get("adapter", "")),
                f"{number_text(number(entry.get('loss_before')))} → "
                f"{number_text(number(entry.get('loss_after')))}",
                str(len(nodes)),
                ", ".join(run.short(node) for node in nodes),
            )
        )
    header = ("Cluster", "Adapter folder", "Held-out loss", "Devices", "Members")
    return _section("clusters", "Clusters and adapters", header, rows, "The run has no cluster.")


def refusal_table(run: Run) -> str:
    """Return the replies that were not used, and why."""
    rows = [
        (str(refusal.round), run.short(refusal.node), refusal.stage, refusal.reason)
        for entry in run.rounds
        for refusal in entry.refused
    ]
    header = ("Round", "Node", "Stage", "Reason")
    return _section("refused", "Refused replies", header, rows, "Every reply was used.")


def left_out_table(run: Run) -> str:
    """Return the devices that no rank fits at the end of the run, and why."""
    rows = [
        (device.short, device.kind, device.cluster, device.reason)
        for device in run.devices
        if device.rank is None
    ]
    header = ("Node", "Device", "Cluster", "Reason")
    return _section("left-out", "Devices left out", header, rows, "No device is left out.")


def note_table(run: Run) -> str:
    """Return the run's events; nothing where it has none."""
    rows = [(str(entry.number), note) for entry in run.rounds for note in entry.notes]
    return _section("notes", "Events", ("Round", "Event"), rows, "") if rows else ""


def settings(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the run's settings: what the manifest holds beside clusters and devices."""
    return {key: value for key, value in manifest.items() if key not in _NOT_SETTINGS}


def setting_table(manifest: Mapping[str, Any]) -> str:
    """Return the run's settings."""
    rows = list(_flat(settings(manifest)))
    return _section("settings", "Settings", ("Setting", "Value"), rows, "None are recorded.")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{key}", "–" if value is None else str(value)


def _section(
    name: str, title: str, header: tuple[str, ...], rows: Sequence[Sequence[str]], missing: str
) -> str:
    content = table(header, rows[:_MOST_ROWS]) if rows else element("p", escaped(missing))
    if len(rows) > _MOST_ROWS:
        content += element("p", escaped(f"The first {_MOST_ROWS:,} of {len(rows):,}."))
    return element("section", element("h2", escaped(title)), content, id=name)


def _loss(entry: Round) -> float | None:
    """Return a round's held-out loss over all devices, weighted by tokens."""
    measured = [
        (done.held_out_loss, done.held_out_tokens)
        for done in entry.devices.values()
        if done.held_out_loss is not None
    ]
    total = sum(tokens for _, tokens in measured)
    return sum(loss * tokens for loss, tokens in measured) / total if total else None


def _part(manifest: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = manifest.get(key)
    return value if isinstance(value, Mapping) else {}
