from __future__ import annotations

import json
from pathlib import Path

import pytest

from floe_plugins.cli import main
from floe_plugins.errors import ConfigError
from floe_plugins.gate import Decision, Policy
from floe_plugins.gate.gate import VARIABLE
from floe_plugins.gate.settings import GateSettings


def written(folder: Path, values: object) -> str:
    path = folder / "gate.json"
    path.write_text(json.dumps(values))
    return str(path)


def test_a_file_makes_a_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "policy": "labels",
        "actions": {"EMAIL": "redact", "*": "local"},
        "detectors": ["email", "card"],
        "timeout_s": 5,
        "max_chars": 1000,
    }
    monkeypatch.setenv(VARIABLE, written(tmp_path, values))
    gate = GateSettings.from_environment().gate()
    assert gate.policy is Policy.LABELS
    assert gate.detectors == ("card", "email")
    assert (gate.timeout_s, gate.max_chars) == (5, 1000)
    assert gate.decide("mail joe@example.org").decision is Decision.REDACTED
    monkeypatch.delenv(VARIABLE)
    assert GateSettings.from_environment() == GateSettings()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], "is no JSON object"),
        ({"polcy": "strict"}, "has the key 'polcy'; accepted are profile, policy"),
        ({"detectors": "email"}, "accepted is a list of names"),
        ({"plugins": [1]}, "accepted is a list of names"),
        ({"policy": "lenient"}, "accepted are strict, redact, labels"),
        ({"detectors": ["absent"]}, "There is no detector 'absent'"),
        ({"max_chars": "many"}, "max_chars"),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(
    tmp_path: Path, values: object, expected: str
) -> None:
    with pytest.raises(ConfigError, match=r"gate|detector") as caught:
        GateSettings.from_file(written(tmp_path, values)).gate()
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gate.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        GateSettings.from_file(str(tmp_path / "gate.json"))
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        GateSettings.from_file(str(tmp_path / "absent.json"))


def test_the_command_takes_the_policy_from_file_or_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mail = tmp_path / "mail.txt"
    mail.write_text("joe@example.org at 93.184.216.34\n")
    config = written(tmp_path, {"policy": "redact", "detectors": ["email", "ip-address"]})
    assert main(["check", str(mail), "--config", config]) == 1
    assert capsys.readouterr().out.endswith("<EMAIL> at <IP_ADDRESS>\n")
    table = ["--policy", "labels", "--action", "EMAIL=clear", "--action", "*=redact"]
    detectors = ["--detector", "email", "--detector", "ip-address"]
    assert main(["check", str(mail), *table, *detectors]) == 1
    assert capsys.readouterr().out.endswith("joe@example.org at <IP_ADDRESS>\n")
    assert main(["check", str(mail), "--action", "EMAIL"]) == 2
    assert "accepted is LABEL=ACTION" in capsys.readouterr().err
    assert main(["check", str(mail), "--policy", "labels"]) == 2
    assert "accepted is a table" in capsys.readouterr().err


def test_the_command_shows_what_a_disguise_stands_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mail = tmp_path / "mail.txt"
    mail.write_text("Hello,\nwrite to joe at example dot org or am9lQGV4YW1wbGUub3Jn.\n")
    assert main(["check", str(mail), "--json", "--detector", "email"]) == 1
    spans = json.loads(capsys.readouterr().out)["spans"]
    text = mail.read_text()
    assert [text[span["start"] : span["end"]] for span in spans] == [
        "joe at example dot org",
        "am9lQGV4YW1wbGUub3Jn",
    ]
