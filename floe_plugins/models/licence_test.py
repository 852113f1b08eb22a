from pathlib import Path

from floe_plugins.models import licence, resolve


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
