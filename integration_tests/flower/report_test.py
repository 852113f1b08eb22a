"""The page of a real run, opened in a real browser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from floe_plugins.cli import main
from flower_strategy.config import ConfigValue
from flower_strategy.data.embedded import make_examples
from flower_strategy.testing.grids import LocalGrid, start_run
from flower_strategy.testing.models import tiny_model
from integration_tests.harness.markdown import blocks_of

__all__ = ["tiny_model"]

FIGURES = (
    "loss",
    "latency",
    "time",
    "ranks",
    "embedding",
    "communication",
    "communication-total",
    "energy",
    "layers",
)


SERVING = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "serve.md"

#: What Vega-Lite draws for a value: markers, bars and cells; the description is the tooltip.
MARK = "path[aria-label]"


@pytest.fixture(scope="module")
def run_folder(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "run"
    values: dict[str, ConfigValue] = {
        "model": tiny_model,
        "output": str(folder),
        "rounds": 2,
        "local-steps": 2,
        "batch-size": 2,
        "learning-rate": 0.02,
        "max-length": 48,
        "max-examples": 24,
        "eval-examples": 4,
        "ranks": "2,4,8",
        "export-rank": 8,
        "devices": "slow:4:1:0.00001,middle:4:1:0.000022,fast:4:1:0.001",
        "silhouette": 0.3,
        # A random model separates tasks by less than its errors.
        "separation": 0.0,
        "round-timeout": 5.0,
    }
    start_run(values, LocalGrid(values, 6))
    return folder


@pytest.fixture(scope="module")
def page(run_folder: Path) -> Path:
    command = [str(Path(sys.executable).with_name("floe-llm")), "report", str(run_folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    written = Path(done.stdout.strip())
    assert written == run_folder / "report.html"
    return written


def show(browser: Chrome, page: Path, *, width: int = 1280, scheme: str = "light") -> None:
    """Load the page and wait until it is drawn."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page.as_uri())
    WebDriverWait(browser, 60).until(
        lambda _: all(drawing(browser, name).find_elements(By.TAG_NAME, "svg") for name in FIGURES)
    )


def stay(browser: Chrome, page: Path) -> None:
    """Show the page on a light desk's screen; nothing is loaded again where it is shown so."""
    dark = "matchMedia('(prefers-color-scheme: dark)').matches"
    seen = browser.execute_script(f"return [location.href, innerWidth, {dark}]")
    if seen != [page.as_uri(), 1280, False]:
        show(browser, page)


def drawing(browser: Chrome, name: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, f"#figure-{name} .plot")


def tip(browser: Chrome) -> str:
    return browser.find_element(By.ID, "tip").text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_every_figure_is_drawn_and_nothing_overflows(
    browser: Chrome, page: Path, width: int, scheme: str
) -> None:
    show(browser, page, width=width, scheme=scheme)
    for name in FIGURES:
        svg = drawing(browser, name)
        assert svg.is_displayed(), name
        assert svg.size["width"] > 250, name
        assert svg.size["height"] > 80, name
        marks = svg.find_elements(By.CSS_SELECTOR, MARK)
        assert marks, name
        assert all(mark.size["width"] > 0 and mark.size["height"] > 0 for mark in marks), name
        assert svg.get_attribute("aria-label")
        figure = browser.find_element(By.ID, f"figure-{name}")
        assert figure.find_element(By.TAG_NAME, "figcaption").text
    page_width, window = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert page_width <= window == width
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", ground)[:3]))
    assert (brightness > 600) == (scheme == "light")


def test_the_page_says_nothing_on_the_console_and_fetches_nothing(
    browser: Chrome, page: Path
) -> None:
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    show(browser, page)
    for name in FIGURES:
        hover(browser, drawing(browser, name))
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]


def hover(browser: Chrome, target: WebElement) -> None:
    # A scroll hides the tooltip, and its event comes with a later frame: the pointer arrives, the
    # page comes to rest, and the pointer moves on a little.
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", target)
    ActionChains(browser).move_to_element(target).perform()
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    ActionChains(browser).move_by_offset(1, 0).perform()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("loss", r"^cluster-\d, round \d: held-out loss \d"),
        ("latency", r"^(slow|middle|fast), rank \d: observed .+, predicted .+"),
        ("communication", r"^round \d: .+ (up|down) to the (devices|server)$"),
        ("communication-total", r"^up to round \d: .+B$"),
        ("energy", r"^cluster-\d, round \d: .+ % discarded$"),
    ],
)
def test_a_mark_under_the_pointer_says_its_values(
    browser: Chrome, page: Path, name: str, said: str
) -> None:
    stay(browser, page)
    hover(browser, drawing(browser, name).find_elements(By.CSS_SELECTOR, MARK)[-1])
    assert re.search(said, tip(browser))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ranks", r"^node \d+ \(.+\), cluster-\d, round 1: rank \d$"),
        ("embedding", r"^node .+ and node .+: cosine 1\.000$"),
        ("layers", r"^cluster-\d, model\.layers\.0\..+ discarded in round \d$"),
    ],
)
def test_cells_speak_to_the_pointer_and_to_the_keyboard(
    browser: Chrome, page: Path, name: str, said: str
) -> None:
    stay(browser, page)
    svg = drawing(browser, name)
    browser.execute_script("arguments[0].focus()", svg)
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    svg.send_keys(Keys.ARROW_RIGHT)
    spoken = tip(browser)
    assert re.search(said, spoken)
    hover(browser, svg.find_element(By.CSS_SELECTOR, f'{MARK}[aria-label="{spoken}"]'))
    assert tip(browser) == spoken
    svg.send_keys(Keys.ARROW_DOWN)
    assert tip(browser) not in ("", spoken)
    svg.send_keys(Keys.ESCAPE)
    assert tip(browser) == ""


def test_json_prints_the_figures_data_and_writes_the_page(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "page.html"
    assert main(["report", str(run_folder), "--output", str(output), "--json"]) == 0
    written: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert written["page"] == str(output)
    assert output.is_file()
    history = json.loads((run_folder / "history.json").read_text())
    first = history["rounds"][1]["clusters"]["cluster-0"]["held_out_loss"]
    assert written["figures"]["loss"]["clusters"]["cluster-0"]["held_out"][1] == first
    assert written["headline"]["devices"] == 6
    assert set(written["figures"]) == set(FIGURES) - {"communication-total"}


def test_the_command_names_the_adapter_that_the_embeddings_give(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from flower_strategy import choose_adapter, embed_texts, load_base_model, load_manifest

    manifest = load_manifest(run_folder)
    base = load_base_model(manifest["model"])
    (text,) = (example.text for example in make_examples("records", count=1, seed=5))
    vector = embed_texts(base, [text], max_length=48)[0]
    assert main(["adapter", str(run_folder), text, "--json"]) == 0
    chosen = json.loads(capsys.readouterr().out)
    assert chosen["name"] == choose_adapter(manifest, vector)
    assert chosen["name"] == max(chosen["cosines"], key=lambda name: chosen["cosines"][name])
    assert chosen["cosines"].keys() == {cluster["name"] for cluster in manifest["clusters"]}
    assert (Path(chosen["path"]) / "adapter_config.json").is_file()
    # The tiny model has no chat template.
    assert (chosen["form"], chosen["route"]) == ("plain", "/v1/completions")
    assert chosen["fits"]


def test_the_command_says_when_no_adapter_fits(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "\u00bfQu\u00e9 tal? \u4f60\u597d! 0x7f 0x7f 0x7f 0x7f"
    assert main(["adapter", str(run_folder), text]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("cluster-")
    assert "Ask the model without an adapter." in printed.err
    assert main(["adapter", str(run_folder), text, "--json"]) == 0
    chosen = json.loads(capsys.readouterr().out)
    assert not chosen["fits"]
    assert chosen["cosines"][chosen["name"]] < chosen["least_cosine"]
    (block,) = [each for each in blocks_of(SERVING) if "choice.fits" in each.code]
    code = block.code.replace('"floe-run"', repr(str(run_folder)))
    space: dict[str, Any] = {"prompt": text}
    exec(code, space)
    assert space["body"] == {"vllm_xargs": {"floe": "host"}}
    (example,) = make_examples("records", count=1, seed=5)
    space = {"prompt": example.text}
    exec(code, space)
    assert space["body"]["vllm_xargs"]["floe_expert_model"].startswith("cluster-")
