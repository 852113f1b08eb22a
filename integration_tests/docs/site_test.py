"""The documentation site: built strictly, served on loopback, read in a real browser."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from integration_tests.benchmarks.suite import SUITE
from integration_tests.docs.docstring_roles import to_markdown

ROOT = Path(__file__).resolve().parents[2]

#: Page -> CSS selectors of what must be visible on it.
SEEN = {
    "": "img[src$='flow.svg']",
    "tutorial/demo/": "table",
    "how-to/serve/": "table",
    "how-to/write-a-detector/": "pre code",
    "explanation/alignment/": "pre code",
    "explanation/architecture/": "img[src$='architecture.svg']",
    "explanation/decoding-step/": "img[src$='step.svg']",
    "explanation/threat-model/": "table",
    "reference/run-configuration/": "table",
    "reference/serving/": "table",
    "reference/glossary/": "table",
    "reference/api/flower/": ".doc-class .doc-heading",
    "results/": "table",
    **{f"results/{each.name}/": f"img[src$='{each.name}.png']" for each in SUITE},
}

#: Where what is wide on a page shows on a desk's screen alone.
WIDE = ("", "explanation/alignment/", "reference/api/flower/")

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(
        [*command, "--site-dir", str(folder)],
        cwd=ROOT,
        # A proxy that is not there: whatever the build would fetch fails.
        env={
            "PATH": "/usr/bin:/bin",
            **dict.fromkeys(("http_proxy", "https_proxy"), "http://[::1]:9"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(site))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def show(browser: Chrome, url: str, *, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(url)


def fetched(browser: Chrome) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    return [url for url in urls if not url.startswith(("data:", "blob:"))]


def is_seen(browser: Chrome, selector: str) -> bool:
    """Tell whether the first element of a selector is visible."""
    width, height = browser.execute_script(
        "const box = document.querySelector(arguments[0])?.getBoundingClientRect();"
        "return box ? [box.width, box.height] : [0, 0]",
        selector,
    )
    return bool(width > 100 and height > 10)


def fits(browser: Chrome) -> bool:
    """Tell whether nothing makes the page scroll sideways."""
    page, window = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    return bool(page <= window)


@pytest.mark.parametrize(
    ("page", "width"), [*((page, 375) for page in SEEN), *((page, 1280) for page in WIDE)]
)
def test_a_page_is_readable_complete_and_fetches_nothing_from_outside(
    browser: Chrome, address: str, page: str, width: int
) -> None:
    show(browser, address + page, width=width)
    # The theme takes tables out and puts them back into boxes that scroll, once the page is there.
    WebDriverWait(browser, 10).until(
        lambda driver: is_seen(driver, f".md-content {SEEN[page]}"),
        message=f"{page} shows no {SEEN[page]}",
    )
    for image in browser.find_elements(By.CSS_SELECTOR, ".md-content img"):
        assert browser.execute_script("return arguments[0].naturalWidth", image) > 0
        assert image.get_attribute("alt")
    WebDriverWait(browser, 10).until(fits, message=f"{page} is wider than {width} pixels")
    size = browser.execute_script(
        "return parseFloat(getComputedStyle(document.querySelector('.md-content p')).fontSize)"
    )
    assert size >= 14
    assert browser.get_log("browser") == []
    urls = fetched(browser)
    assert urls
    assert [url for url in urls if not url.startswith(address)] == []


def test_the_search_finds_a_page(browser: Chrome, address: str) -> None:
    show(browser, address, width=1280)
    field = browser.find_element(By.CSS_SELECTOR, "input.md-search__input")
    browser.execute_script("arguments[0].focus()", field)
    field.send_keys("discarded energy")
    results = WebDriverWait(browser, 20).until(
        lambda driver: driver.find_elements(By.CSS_SELECTOR, ".md-search-result__link")
    )
    assert any("aggregation" in str(each.get_attribute("href")) for each in results)
    assert browser.get_log("browser") == []
    assert [url for url in fetched(browser) if not url.startswith(address)] == []


def test_no_file_of_the_site_names_another_server_to_load_from(site: Path) -> None:
    loads = re.compile(r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=["']?(?:https?:)?//""")
    for page in site.rglob("*.html"):
        assert not loads.search(page.read_text("utf-8")), page


def test_every_page_is_in_the_navigation(site: Path) -> None:
    home = (site / "index.html").read_text("utf-8")
    for page in site.rglob("index.html"):
        path = page.parent.relative_to(site).as_posix()
        # What `make bench` writes is reached from the page of results.
        if path != "." and not path.startswith("results/"):
            assert f'href="{path}/"' in home, f"{path} is not in the nav of mkdocs.yml"


def test_formulas_and_roles_of_docstrings_become_code() -> None:
    text = "See :class:`~a.B`.\n\n.. math:: x = 1, \\quad\n          y = 2\n\nWith :math:`z`."
    shown = "See `a.B`.\n\n```text\nx = 1, \\quad\ny = 2\n```\n\nWith ``z``."
    assert to_markdown(text) == shown
    assert to_markdown("Used as::\n\n    x = 1\n") == "Used as:\n\n    x = 1\n"
