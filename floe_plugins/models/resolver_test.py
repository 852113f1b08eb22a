import os
from pathlib import Path

import pytest

from floe_plugins.errors import ModelError
from floe_plugins.models import export, licence, resolve
from floe_plugins.models.checkpoint_folder import MANIFEST


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_a_folder_resolves_to_itself(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(str(checkpoint)) == str(checkpoint)
    monkeypatch.chdir(checkpoint.parent)
    assert resolve("checkpoint") == str(checkpoint)
    assert resolve("./checkpoint") == str(checkpoint)


def test_a_folder_comes_before_a_hub_id(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint.parent.parent)
    name = f"{checkpoint.parent.name}/checkpoint"
    assert resolve(name) == str(checkpoint)


@pytest.mark.parametrize("name", ["HuggingFaceTB/SmolLM2-135M-Instruct", "gpt2", "o_1/m.2-x"])
def test_hub_ids_pass_through(name: str) -> None:
    assert resolve(name) == name


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "../up", "a/b/c", "owner/", "/absent/folder", "-x/y", "a..b", "äö/ü", "a:b"],
)
def test_what_is_no_model_is_refused_in_a_sentence(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)


def test_an_unknown_source_is_refused_with_those_there_are() -> None:
    with pytest.raises(ModelError, match=r"no model source 'ftp'.*embedded"):
        resolve("ftp:model")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        resolve(str(tmp_path))


def test_a_plugin_adds_a_source(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shelves").mkdir()
    (tmp_path / "shelves" / "plugin.py").write_text(
        "from pathlib import Path\n"
        "from floe_plugins import hookimpl\n"
        "class Source:\n"
        "    name = 'shelf'\n"
        "    def references(self): return ['one']\n"
        "    def resolve(self, reference, *, progress=True): return Path(reference)\n"
        "@hookimpl\n"
        "def floe_register_model_sources(): return [Source()]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("FLOE_LLM_PLUGINS", "none")
    with pytest.raises(ModelError, match="no model source 'shelf'"):
        resolve(f"shelf:{checkpoint}")
    monkeypatch.setenv("FLOE_LLM_PLUGINS", "shelves.plugin")
    assert resolve(f"shelf:{checkpoint}") == str(checkpoint)


def test_export_copies_a_folder(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "copy"
    assert export(str(checkpoint), target) == target
    assert (target / "config.json").read_text() == "{}"
    assert (target / MANIFEST).is_file()
    assert sorted(os.listdir(target.parent)) == ["copy"]


def test_export_takes_an_empty_folder_but_no_other(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    target.mkdir()
    export(str(checkpoint), target)
    with pytest.raises(ModelError, match="has content"):
        export(str(checkpoint), target)
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="is a file"):
        export(str(checkpoint), tmp_path / "file")


def test_export_of_a_hub_model_that_cannot_be_had_leaves_nothing(tmp_path: Path) -> None:
    # Tests run offline, see conftest.py.
    with pytest.raises(ModelError, match="hub does not provide 'owner/name'"):
        export("owner/name", tmp_path / "copy")
    assert os.listdir(tmp_path) == []


def test_the_model_card_comes_first(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("Some License\nVersion 1\n")
    assert licence(str(tmp_path)) == "Some License, Version 1"
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Card\n")
    assert licence(str(tmp_path)) == "apache-2.0"


def test_nothing_is_guessed(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Card\n\nlicense: said in the text only\n")
    assert licence(str(tmp_path)) is None
    assert licence("owner/name-on-a-hub") is None


def test_the_embedded_model_tells_its_own() -> None:
    path = resolve("embedded:smollm2-135m-instruct", progress=False)
    assert licence(path) == "Apache License, Version 2.0, January 2004"
