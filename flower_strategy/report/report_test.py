import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from floe_plugins.cli import main
from flower_strategy.report.data import MOST_DEVICES, figure_data, read_run
from flower_strategy.report.page import bytes_text, number_text, seconds_text, write_report

EVIL = "<script>alert(1)</script>\"'&"


def device(node: str, **values: Any) -> dict[str, Any]:
    return {
        "node": node,
        "device": "phone",
        "label": "code",
        "cluster": "cluster-0",
        "rank": 4,
        "reason": "it fits",
        "embedding": [0.6, 0.8],
        **values,
    }


def trained(**values: Any) -> dict[str, Any]:
    return {
        "cluster": "cluster-0",
        "rank": 4,
        "predicted_seconds": 10.0,
        "observed_seconds": 12.0,
        "bytes_down": 1000,
        "bytes_up": 500,
        "held_out_loss": 1.0,
        "held_out_tokens": 100,
        **values,
    }


def write(
    folder: Path, devices: list[dict[str, Any]], rounds: list[dict[str, Any]], **values: Any
) -> Path:
    cluster = {"name": "cluster-0", "adapter": "cluster-0", "members": ["1"], "centroid": [1.0]}
    manifest = {"format": 1, "clusters": [cluster], "devices": devices, **values}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "history.json").write_text(json.dumps({"format": 1, "rounds": rounds}))
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (number_text(None), "–"),
        (number_text(0.0), "0"),
        (number_text(-1234.5), "−1,234"),
        (number_text(0.9996), "1"),
        (number_text(1.5e-7), "1.50e−7"),
        (bytes_text(999), "999 B"),
        (bytes_text(4_884_480), "4.88 MB"),
        (bytes_text(999_900), "1 MB"),
        (seconds_text(71.2), "71.2 s"),
        (seconds_text(180), "3 min"),
        (seconds_text(0.02), "20 ms"),
    ],
)
def test_numbers_as_text(text: str, expected: str) -> None:
    assert text == expected


def drawings(page: Path) -> dict[str, Any]:
    text = page.read_text()
    (found,) = re.findall('<script type="application/json" id="figures">(.*?)</script>', text)
    read: dict[str, Any] = json.loads(found)
    return read


def test_a_line_breaks_where_a_value_is_missing(tmp_path: Path) -> None:
    values = (1.0, 2.0, None, 3.0)
    rounds = [
        {"round": i, "clusters": {"cluster-0": {"held_out_loss": v}, "b": {"held_out_loss": 1.0}}}
        for i, v in enumerate(values)
    ]
    write_report(write(tmp_path, [device("1")], rounds))
    loss = drawings(tmp_path / "report.html")["loss"]
    assert loss["datasets"]["rows"][0]["value"] == [*values]
    # Vega-Lite leaves a gap for a missing value unless told otherwise.
    assert "invalid" not in json.dumps(loss)


def test_nothing_that_a_device_says_becomes_markup(tmp_path: Path) -> None:
    devices = [
        device("1", device=EVIL, label=EVIL, reason=EVIL),
        device(EVIL, cluster=EVIL, rank=None, reason=EVIL),
    ]
    outcome: dict[str, Any] = {
        "asked": 1,
        "moved": True,
        "held_out_loss": 1.0,
        "discarded_energy": 0.1,
    }
    outcome |= {"discarded_by_layer": {EVIL: 0.1}}
    entry = {
        "round": 1,
        "clusters": {EVIL: outcome, "cluster-0": outcome},
        "devices": {"1": trained()},
        "refused": [{"node": EVIL, "stage": EVIL, "reason": EVIL}],
        "left_out": {EVIL: EVIL},
        "notes": [EVIL],
    }
    write(tmp_path, devices, [entry], model=EVIL, rank_policy=EVIL, embedding={EVIL: EVIL})
    page = Path(write_report(tmp_path)["page"]).read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    # Vega-Lite, the page's own script, and the figures' data.
    assert page.count("<script") == 3
    assert page.count("</script") == 3
    drawn = drawings(tmp_path / "report.html")
    assert set(drawn) == {
        "loss",
        "latency",
        "time",
        "ranks",
        "embedding",
        "communication",
        "communication-total",
        "energy",
        "layers",
    }
    # Devices' texts are data and labels of scales, and never part of an expression.
    for figure in drawn.values():
        expressions = re.findall(
            r'"(?:calculate|filter|labelExpr|expr|test)": "[^"]*"', json.dumps(figure)
        )
        assert "script" not in "".join(expressions)


def test_the_page_of_a_large_run_stays_small(tmp_path: Path) -> None:
    kinds = (("phone", 4), ("jetson", 8), ("laptop", None))
    devices = [
        device(
            str(10**18 + 7919 * i),
            device=kinds[i % 3][0],
            rank=kinds[i % 3][1],
            cluster=f"cluster-{i % 8}",
            embedding=[math.sin(i * j) for j in range(1, 9)],
        )
        for i in range(10_000)
    ]
    left_out = {entry["node"]: "no rank fits" for entry in devices if entry["rank"] is None}
    rounds = [
        {
            "round": number,
            "clusters": {
                f"cluster-{i}": {"moved": True, "held_out_loss": 1.234567, "discarded_energy": 0.01}
                for i in range(8)
            },
            "devices": {entry["node"]: trained() for entry in devices[number::50]},
            "left_out": left_out,
        }
        for number in range(201)
    ]
    write_report(write(tmp_path, devices, rounds))
    assert (tmp_path / "report.html").stat().st_size < 6_000_000


def test_absent_and_null_values_leave_gaps_and_no_error(tmp_path: Path) -> None:
    devices: list[dict[str, Any]] = [
        device("1", embedding=None),
        device("2", rank=None, device=None, reason=None),
        {},
    ]
    rounds: list[dict[str, Any]] = [
        {"round": 0, "clusters": None, "devices": {"1": None}},
        {"round": 1, "devices": {"1": trained(observed_seconds=None, held_out_loss=None)}},
        {"devices": {"9": {}}, "refused": [None, {}], "clusters": {"cluster-0": {}}},
    ]
    write(tmp_path, devices, rounds, deadline_seconds="soon")
    data = write_report(tmp_path)["figures"]
    assert data["loss"]["clusters"]["cluster-0"]["held_out"] == [None, None, None]
    assert data["latency"]["classes"]["phone"][0]["observed"] is None
    assert data["latency"]["deadline_seconds"] is None
    assert data["embedding"]["cosine"] == [[pytest.approx(1.0)]]


def test_states_of_ranks(tmp_path: Path) -> None:
    devices = [device("1"), device("2"), device("3"), device("4", rank=None)]
    entry = {
        "round": 1,
        "devices": {"1": trained(), "2": trained(), "3": trained(rank=None)},
        "refused": [{"node": "2", "stage": "train", "reason": "NaN"}],
        "left_out": {"4": "too slow"},
    }
    data = figure_data(read_run(write(tmp_path, devices, [entry])))
    assert [row[0] for row in data["ranks"]["cells"]] == [
        {"state": "trained", "rank": 4},
        {"state": "refused", "rank": 4, "reason": "NaN"},
        {"state": "not asked"},
        {"state": "left out", "reason": "too slow"},
    ]
    assert data["communication"]["total"] == [4500]
    assert data["latency"]["classes"]["phone"] == [
        {"rank": 4, "count": 2, "observed": 12, "least": 12, "greatest": 12, "predicted": 10}
    ]


def test_time_is_training_transport_or_idle_per_class_and_device(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    devices = [device("1"), device("2", device="laptop"), device("3")]
    one = {
        "1": trained(observed_seconds=12.0, transfer_seconds=3.0),
        "2": trained(observed_seconds=9.0),
        "3": trained(rank=None, observed_seconds=None),
    }
    two = {"1": trained(observed_seconds=8.0, transfer_seconds=3.0)}
    folder = write(tmp_path, devices, [{"round": 1, "devices": one}, {"round": 2, "devices": two}])
    time = figure_data(read_run(folder))["time"]
    assert time["classes"] == {
        "laptop": {
            **{"devices": 1, "rounds": 1, "training": 9.0, "transport": 0.0, "idle": 3.0},
            "idle_share": 0.25,
        },
        "phone": {
            **{"devices": 1, "rounds": 2, "training": 14.0, "transport": 6.0, "idle": 0.0},
            "idle_share": 0.0,
        },
    }
    assert [(entry["node"], entry["idle"]) for entry in time["devices"]] == [("2", 3.0), ("1", 0.0)]
    assert main(["report", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{folder / 'report.html'}\n"
    assert "laptop (1): 9.0 s training, 0.0 s transport, 3.0 s idle (25%)" in err
    page = (folder / "report.html").read_text()
    assert "Time per device" in page
    assert "<td>25%</td>" in page
    rows = drawings(folder / "report.html")["time"]["datasets"]["rows"]
    assert [row["value"] for row in rows if row["name"] == "phone"] == [7.0, 3.0]


def test_of_many_devices_some_of_each_cluster_are_shown(tmp_path: Path) -> None:
    devices = [device(str(10**18 + 7 * i), cluster=f"cluster-{i % 4}") for i in range(1000)]
    run = read_run(write(tmp_path, devices, []))
    data = figure_data(run)["embedding"]
    assert len(data["devices"]) == len(data["cosine"]) == MOST_DEVICES
    shown = [entry["cluster"] for entry in data["devices"]]
    for index in range(4):
        assert abs(shown.count(f"cluster-{index}") - MOST_DEVICES // 4) <= 1
    assert len({entry.short for entry in run.devices}) == 1000


@pytest.mark.parametrize("rounds", [[], [{"round": 0}]])
@pytest.mark.parametrize("devices", [[], [device("1")]])
def test_a_run_that_has_not_begun_has_a_page(
    tmp_path: Path, devices: list[dict[str, Any]], rounds: list[dict[str, Any]]
) -> None:
    written = write_report(write(tmp_path, devices, rounds))
    assert written["headline"]["rounds"] == 0
    assert "No round has sent an adapter yet." in Path(written["page"]).read_text()
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "holds no manifest.json"),
        ("{", "is no JSON"),
        ("[]", "has format None; this version of Floe reads 1"),
        ('{"format": 2}', "has format 2; this version of Floe reads 1"),
        ('{"format": 1, "clusters": {}}', "has no list of objects 'clusters'"),
    ],
)
@pytest.mark.parametrize("command", [["report"], ["adapter", "some text"]])
def test_a_folder_without_a_run_is_said_in_a_sentence(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str | None,
    said: str,
    command: list[str],
) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    assert main([command[0], str(tmp_path), *command[1:]]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_a_page_that_cannot_be_written_is_said_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = write(tmp_path, [], []), tmp_path / "absent" / "page.html"
    assert main(["report", str(folder), "--output", str(output)]) == 2
    assert f"{output} cannot be written: No such file" in capsys.readouterr().err
