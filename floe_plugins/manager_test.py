import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from floe_plugins.errors import PluginError
from floe_plugins.isolated_plugins import IsolatedRouter, IsolatedSource
from floe_plugins.manager import PLUGINS_VARIABLE, _load, plugin_manager

DETECTOR = """
from floe_plugins import hookimpl
from floe_plugins.gate import Span

class Detector:
    labels = ("BADGE",)
    def __init__(self, name):
        self.name = name
    def detect(self, text):
        return [Span(0, 1, "BADGE")]
"""

GOOD = """
@hookimpl
def floe_register_detectors():
    return [Detector({name!r})]
"""


@pytest.fixture(autouse=True)
def fresh_manager() -> Iterator[None]:
    _load.cache_clear()
    yield
    _load.cache_clear()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def write_module(site: Path, module: str, body: str) -> str:
    (site / f"{module}.py").write_text(DETECTOR + body)
    sys.modules.pop(module, None)
    return module


def install(site: Path, module: str, body: str, *, name: str, version: str = "1.2") -> None:
    """Install a module as a distribution with an entry point, as pip lays it out."""
    write_module(site, module, body)
    folder = site / f"{module}_dist-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {module}-dist\nVersion: {version}\n"
    )
    (folder / "entry_points.txt").write_text(f"[floe_llm]\n{name} = {module}\n")


def refusal(*paths: str) -> str:
    with pytest.raises(PluginError) as caught:
        plugin_manager(paths)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_floe_registers_by_its_own_hooks() -> None:
    manager = plugin_manager()
    assert {"card", "email", "iban", "ip-address", "phone", "secret", "us-ssn"} <= set(
        manager.detectors
    )
    assert {"evidence", "entropy", "mean", "host", "expert"} <= set(manager.routers)
    assert set(manager.model_sources) == {"embedded"}
    assert manager.detectors["email"].plugin == "floe"
    assert manager.plugins[0].name == "floe"


def test_an_installed_plugin_is_found(site: Path) -> None:
    install(site, "badges", GOOD.format(name="badge"), name="badges")
    manager = plugin_manager()
    assert manager.detectors["badge"].plugin == "badges"
    (plugin,) = [plugin for plugin in manager.plugins if plugin.name == "badges"]
    assert (plugin.distribution, plugin.version) == ("badges-dist", "1.2")
    assert plugin.registers == {"floe_register_detectors": ("badge",)}


def test_dotted_paths_load_modules_and_instances(site: Path) -> None:
    write_module(site, "by_path", GOOD.format(name="badge"))
    write_module(
        site,
        "by_attribute",
        """
class Plugin:
    @hookimpl
    def floe_register_detectors(self):
        return [Detector("pass")]
plugin = Plugin()
""",
    )
    manager = plugin_manager(["by_path", "by_attribute:plugin"])
    assert manager.detectors["badge"].plugin == "by_path"
    assert manager.detectors["pass"].plugin == "by_attribute:plugin"


def test_the_order_of_installation_changes_nothing(site: Path) -> None:
    for module in ("zebra", "aardvark"):
        install(site, module, GOOD.format(name=f"of-{module}"), name=module)
    names = [plugin.name for plugin in plugin_manager().plugins]
    assert names == ["floe", "aardvark", "zebra"]
    assert list(plugin_manager().detectors)[-2:] == ["of-aardvark", "of-zebra"]


@pytest.mark.parametrize(
    ("value", "loaded"),
    [
        ("none", []),
        ("", []),
        ("zebra", ["zebra"]),
        (" aardvark , zebra ", ["aardvark", "zebra"]),
        ("standalone.module", ["standalone.module"]),
        ("zebra,standalone.module", ["zebra", "standalone.module"]),
    ],
)
def test_the_variable_chooses(
    site: Path, monkeypatch: pytest.MonkeyPatch, value: str, loaded: list[str]
) -> None:
    for module in ("zebra", "aardvark"):
        install(site, module, GOOD.format(name=f"of-{module}"), name=module)
    (site / "standalone").mkdir()
    (site / "standalone" / "module.py").write_text(DETECTOR + GOOD.format(name="alone"))
    monkeypatch.setenv(PLUGINS_VARIABLE, value)
    assert [plugin.name for plugin in plugin_manager().plugins][1:] == loaded


def test_an_unknown_name_in_the_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLUGINS_VARIABLE, "absent")
    assert "'absent'" in refusal()


def test_two_plugins_with_one_detector_name_are_both_named(site: Path) -> None:
    for module in ("first", "second"):
        install(site, module, GOOD.format(name="badge"), name=module)
    message = refusal()
    assert "'first'" in message
    assert "'second'" in message
    assert "'badge'" in message


def test_a_built_in_detector_cannot_be_replaced(site: Path) -> None:
    install(site, "impostor", GOOD.format(name="email"), name="impostor")
    assert "'impostor'" in refusal()


def test_two_distributions_with_one_plugin_name_are_refused(site: Path) -> None:
    for module in ("first", "second"):
        install(site, module, GOOD.format(name=module), name="same")
    message = refusal()
    assert "first-dist" in message
    assert "second-dist" in message


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("raise OSError('no such model')", "OSError: no such model"),
        ("@hookimpl\ndef floe_register_detectorz():\n    return []", "floe_register_detectorz"),
        ("def floe_register_detectorz():\n    return []", "is no hook"),
        ("def floe_register_detectors():\n    return []", "without @floe_plugins.hookimpl"),
        ("@hookimpl\ndef floe_register_detectors(text):\n    return []", "text"),
        ("@hookimpl\ndef floe_register_detectors():\n    yield Detector('a')", "generator"),
        ("@hookimpl\ndef floe_register_detectors():\n    1 / 0", "ZeroDivisionError"),
        ("@hookimpl\ndef floe_register_detectors():\n    return None", "NoneType"),
        ("@hookimpl\ndef floe_register_detectors():\n    return [Detector]", "the class Detector"),
        ("@hookimpl\ndef floe_register_detectors():\n    return [object()]", "without name"),
        ("@hookimpl\ndef floe_register_detectors():\n    return [Detector('A b')]", "'A b'"),
        ("@hookimpl\ndef floe_register_routers():\n    return [Detector('a')]", "log_odds"),
        (
            "class Odd(Detector):\n    @property\n    def labels(self):\n        1 / 0\n"
            "@hookimpl\ndef floe_register_detectors():\n    return [Odd('a')]",
            "ZeroDivisionError",
        ),
        ("@hookimpl\ndef floe_register_experts():\n    return [Detector('a')]", "without build"),
        (
            "class Kind(Detector):\n    def build(self, config):\n        pass\n"
            "@hookimpl\ndef floe_register_experts():\n    return [Kind('completions')]",
            "one of Floe's own",
        ),
        (
            "class Kind(Detector):\n    def build(self, config):\n        pass\n"
            "@hookimpl\ndef floe_register_rank_policies():\n    return [Kind('deadline')]",
            "one of Floe's own",
        ),
        (
            "class Steep(Detector):\n    exponent = 2.0\n    def log_odds(self, signals):\n"
            "        pass\n"
            "@hookimpl\ndef floe_register_routers():\n    return [Steep('steep')]",
            "exponent is 2.0",
        ),
        (
            "@hookimpl(wrapper=True)\ndef floe_register_detectors():\n    yield\n    return []",
            "wraps floe_register_detectors",
        ),
    ],
)
def test_what_is_wrong_with_a_plugin_is_said_with_its_name(
    site: Path, body: str, expected: str
) -> None:
    write_module(site, "faulty", body)
    message = refusal("faulty")
    assert "'faulty'" in message
    assert expected in message


def test_a_class_is_no_plugin(site: Path) -> None:
    write_module(site, "classy", "class Plugin:\n    pass")
    assert "class" in refusal("classy:Plugin")


def test_a_missing_module_and_a_missing_attribute_are_refused(site: Path) -> None:
    write_module(site, "present", "")
    assert "ModuleNotFoundError" in refusal("not.there")
    assert "AttributeError" in refusal("present:not_there")


def test_importing_the_package_is_not_taken_for_a_hook(site: Path) -> None:
    write_module(site, "importer", "import floe_plugins\n" + GOOD.format(name="badge"))
    assert "badge" in plugin_manager(["importer"]).detectors


def test_kinds_of_experts_and_rank_policies_are_registered(site: Path) -> None:
    write_module(
        site,
        "kinds_plugin",
        """
class Kind(Detector):
    def build(self, config, **facts):
        return (config, facts)

@hookimpl
def floe_register_experts():
    return [Kind("canned")]

@hookimpl
def floe_register_rank_policies():
    return [Kind("quartile")]
""",
    )
    manager = plugin_manager(["kinds_plugin"])
    assert manager.experts["canned"].plugin == "kinds_plugin"
    assert manager.rank_policies["quartile"].value.build("config") == ("config", {})


def test_routers_and_sources_of_plugins_come_behind_a_wall(site: Path) -> None:
    write_module(
        site,
        "walled",
        """
class Router(Detector):
    def log_odds(self, signals):
        raise RuntimeError("the secret is 42")

class Source(Detector):
    def references(self):
        raise RuntimeError
    def resolve(self, reference, *, progress=True):
        raise RuntimeError("the secret is 42")

@hookimpl
def floe_register_routers():
    return [Router("rash")]

@hookimpl
def floe_register_model_sources():
    return [Source("rash")]
""",
    )
    manager = plugin_manager(["walled"])
    assert isinstance(manager.routers["rash"].value, IsolatedRouter)
    assert isinstance(manager.model_sources["rash"].value, IsolatedSource)
    assert not isinstance(manager.routers["evidence"].value, IsolatedRouter)
