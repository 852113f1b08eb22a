"""`floe-llm align` as its users call it, on trained tokenizers and on the embedded pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from floe_plugins.cli import main
from floe_plugins.system import CACHE_VARIABLE


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["align", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def values_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0
    values: dict[str, Any] = json.loads(out)
    return values


def test_it_builds_once_and_then_loads(
    capsys: pytest.CaptureFixture[str], pair: tuple[str, str], tmp_path: Path
) -> None:
    first, second = values_of(capsys, *pair), values_of(capsys, *pair)
    assert (first["built"], second["built"]) == (True, False)
    file = Path(first["file"])
    assert file.parent == tmp_path / "cache" / "alignment"
    assert first["file_bytes"] == file.stat().st_size
    unlike = {"built", "seconds"}
    assert {key: first[key] for key in first.keys() - unlike} == {
        key: second[key] for key in second.keys() - unlike
    }


def test_figures_add_up(capsys: pytest.CaptureFixture[str], pair: tuple[str, str]) -> None:
    values = values_of(capsys, *pair)
    for name, side in zip(("host", "expert"), pair, strict=True):
        report = values[name]
        assert report["name"] == side
        assert report["tokens"] == report["mapped"] + report["without_text"] + report["not_spelled"]
        assert 256 <= report["shared"] <= report["mapped"]
        assert report["not_spelled"] == 0
        assert len(report["ends"]) == 1
    assert values["host"]["kind"] == "byte-level"
    assert values["expert"]["kind"] == "sentencepiece"
    sizes = [size for _, size in values["groups"]["largest"]]
    assert sizes == sorted(sizes, reverse=True)
    assert (
        values["groups"]["percentiles"]["50"] <= values["groups"]["percentiles"]["99"] <= sizes[0]
    )


def test_what_cannot_be_spelled_is_counted_with_examples(
    capsys: pytest.CaptureFixture[str], pair: tuple[str, str], tmp_path: Path
) -> None:
    """A sentencepiece tokenizer without the bell's byte token cannot spell the host's token."""
    folder = Path(pair[1])
    spec = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = spec["model"]["vocab"]
    vocabulary["<unused>"] = vocabulary.pop("<0x07>")
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    code, out, _ = run(capsys, *pair)
    assert code == 0
    assert r"host tokens that the other cannot spell, such as '\x07'" in out.splitlines()


def test_the_table_names_both_and_the_file(
    capsys: pytest.CaptureFixture[str], pair: tuple[str, str]
) -> None:
    code, out, err = run(capsys, *pair)
    assert (code, err) == (0, "")
    header, host, expert, *rest = out.splitlines()
    assert " ".join(header.split()) == (
        "TOKENS SAME BYTES MAPPED NO TEXT NOT SPELLED ENDS KIND NAME"
    )
    assert host.startswith("host ")
    assert host.endswith(f"byte-level     {pair[0]}")
    assert expert.endswith(f"sentencepiece  {pair[1]}")
    assert rest[-2].startswith("built in ")
    assert rest[-1].endswith(" MB")


def test_a_text_is_shown_as_tokens_of_both_and_safely(
    capsys: pytest.CaptureFixture[str], pair: tuple[str, str]
) -> None:
    # An escape sequence, a character that reverses the line, and an invalid byte.
    text = "the \x1b[2J\u202e\udce4"
    code, out, _ = run(capsys, *pair, "--show", text)
    assert code == 0
    assert all(char.isprintable() for char in out.replace("\n", ""))
    assert "HOST TOKEN  TEXT" in out
    assert r"'\x1b'" in out
    shown = values_of(capsys, *pair, "--show", text)["show"]
    assert len(shown["host_tokens"]) > 3
    first = shown["host_tokens"][0]
    assert (first["first"], first["first_text"]) == (
        shown["expert_tokens"][0]["token"],
        shown["expert_tokens"][0]["text"],
    )
    assert shown["host_tokens"][-1]["text"] == r"b'\xe4'"
    assert all(token["group"] >= 1 for side in shown.values() for token in side)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer in it"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot be "),
    ],
)
def test_a_model_without_a_tokenizer_is_said_in_one_sentence(
    capsys: pytest.CaptureFixture[str], pair: tuple[str, str], change: Any, said: str
) -> None:
    change(Path(pair[1]))
    code, out, err = run(capsys, *pair)
    assert (code, out) == (2, "")
    assert said in err
    assert pair[1] in err
    assert err.count("\n") == 1


def test_a_cache_that_cannot_be_written_is_said(
    capsys: pytest.CaptureFixture[str],
    pair: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    code, _, err = run(capsys, *pair)
    assert code == 2
    assert f"{CACHE_VARIABLE} may name another cache folder." in err


def test_the_embedded_pair(capsys: pytest.CaptureFixture[str]) -> None:
    values = values_of(
        capsys,
        "embedded:gemma-3-270m",
        "embedded:smollm2-135m-instruct",
        "--show",
        "Paris is the capital of France.",
    )
    host, expert = values["host"], values["expert"]
    assert (host["tokens"], expert["tokens"]) == (262_144, 49_152)
    # Most of the smaller vocabulary consists of words that the larger also has.
    assert expert["shared"] > 0.6 * expert["tokens"]
    assert host["mapped"] > 0.97 * host["tokens"]
    # SmolLM2 has no token for some control characters.
    assert 0 < host["not_spelled"] < 40
    assert r"'\x04'" in host["not_spelled_examples"]
    assert values["groups"]["percentiles"]["50"] >= 1
    assert [token["text"] for token in values["show"]["host_tokens"]] == [
        "'Paris'",
        "' is'",
        "' the'",
        "' capital'",
        "' of'",
        "' France'",
        "'.'",
    ]
