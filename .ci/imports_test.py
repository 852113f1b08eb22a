"""The direction of imports: no circles, and each folder imports what it may.

Every import counts, also within functions and for types alone. A module that imports ``a.b.c`` also
runs ``a`` and ``a.b``, unless it is inside them or needs types alone.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("floe_plugins", "flower_strategy", "vllm_logits_processor")
HALVES = frozenset({"flower_strategy", "vllm_logits_processor"})
FRAMEWORKS = frozenset({"flwr", "peft", "ray", "torch", "transformers", "vllm"})


@dataclass(frozen=True)
class Rule:
    """What the modules of a folder, or one module, must not import.

    Attributes
    ----------
    where : str
        A package, folder or module, dotted.
    never : frozenset of str
        Packages, folders or modules of the project or of others, dotted.
    but : frozenset of str
        Modules that the rule exempts.
    """

    where: str
    never: frozenset[str]
    but: frozenset[str] = frozenset()


#: Convert a checkpoint with transformers; loaded when a model inside a package is first used, or a
#: GGUF file exported.
CHECKPOINTS = frozenset(
    {
        "floe_plugins.models.gguf",
        "floe_plugins.models.gguf_architectures",
        "floe_plugins.models.gguf_tokenizer",
    }
)

RULES = (
    Rule("floe_plugins", HALVES | {"tools", "integration_tests"}),
    Rule("floe_plugins", FRAMEWORKS, but=CHECKPOINTS),
    Rule("floe_plugins.files", frozenset(PACKAGES)),
    Rule("floe_plugins.isolation", frozenset({"floe_plugins.hooks", "floe_plugins.gate"})),
    Rule("floe_plugins.manager", frozenset({"floe_plugins.builtin"})),
    Rule("floe_plugins.gate", frozenset({"floe_plugins.middleware", "floe_plugins.commands"})),
    Rule(
        "floe_plugins.gate.detectors",
        frozenset({"floe_plugins.gate.gate", "floe_plugins.gate.runner"}),
    ),
    Rule(
        "floe_plugins.gate.disguises",
        frozenset({"floe_plugins.gate.detectors", "floe_plugins.gate.gate"}),
    ),
    Rule("flower_strategy", frozenset({"vllm_logits_processor", "tools", "integration_tests"})),
    Rule("vllm_logits_processor", frozenset({"flower_strategy", "tools", "integration_tests"})),
    Rule("flower_strategy.adapters", frozenset({"flower_strategy.server"})),
    Rule("flower_strategy.device", frozenset({"flower_strategy.server"})),
    Rule(
        "flower_strategy.server",
        frozenset(
            {
                *("flower_strategy.strategy", "flower_strategy.device"),
                *("flower_strategy.client", "flower_strategy.client_app"),
                *("torch", "transformers"),
            }
        ),
    ),
    Rule("flower_strategy.strategy", frozenset({"torch", "transformers"})),
    Rule("flower_strategy.report", frozenset({"flwr", "torch", "flower_strategy.strategy"})),
    Rule("vllm_logits_processor.alignment", frozenset({"vllm", "vllm_logits_processor.expert"})),
    Rule("vllm_logits_processor.expert", frozenset({"vllm", "vllm_logits_processor.runners"})),
    Rule("vllm_logits_processor.runners", frozenset({"vllm_logits_processor.expert"})),
)


def _is_test(path: Path) -> bool:
    helpers = path.name == "conftest.py" or "testing" in path.relative_to(ROOT).parts
    return helpers or path.name.endswith("_test.py")


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def modules() -> dict[str, Path]:
    """Return the modules of the packages, without tests and their helpers."""
    return {
        _dotted(path): path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if not _is_test(path)
    }


def _imports(tree: ast.AST, *, typed: bool = False) -> Iterator[tuple[str, str, bool]]:
    """Yield (module, name or "", whether for types alone) of all imports in a tree."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", typed) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from ((node.module or "", alias.name, typed) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for inner in node.body:
                yield from _imports(ast.Module([inner], []), typed=True)
            for inner in node.orelse:
                yield from _imports(ast.Module([inner], []), typed=typed)
        else:
            yield from _imports(node, typed=typed)


@cache
def targets(module: str) -> frozenset[str]:
    """Return the modules that a module imports, those of other projects too."""
    found: set[str] = set()
    for name, attribute, typed in _imports(ast.parse(modules()[module].read_text("utf-8"))):
        submodule = f"{name}.{attribute}"
        target = submodule if submodule in modules() else name
        found.add(target)
        parents = target.split(".")[:-1]
        for end in range(1, len(parents) + 1):
            parent = ".".join(parents[:end])
            if not typed and not f"{module}.".startswith(f"{parent}."):
                found.add(parent)
    return frozenset(found - {module})


def within(module: str, where: str) -> bool:
    """Tell whether a module is `where` or is inside it."""
    return f"{module}.".startswith(f"{where}.")


def circles(package: str) -> list[list[str]]:
    """Return a package's import circles: sets of modules that all reach each other."""
    graph = {
        module: {target for target in targets(module) if target in modules()}
        for module in modules()
        if within(module, package)
    }
    reached: dict[str, set[str]] = {}
    for module in graph:
        reached[module], waiting = set(), list(graph[module])
        while waiting:
            target = waiting.pop()
            if target in graph and target not in reached[module]:
                reached[module].add(target)
                waiting += graph[target]
    found = {
        tuple(sorted(other for other in reached[module] if module in reached[other]))
        for module in graph
        if module in reached[module]
    }
    return [list(circle) for circle in sorted(found)]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_itself_by_way_of_others(package: str) -> None:
    assert circles(package) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.where)
def test_a_folder_imports_only_what_it_may(rule: Rule) -> None:
    own = [module for module in modules() if within(module, rule.where)]
    assert own, f"{rule.where} is gone: change its rule"
    refused = {
        f"{module} imports {target}"
        for module in own
        if module not in rule.but
        for target in targets(module)
        for never in rule.never
        if within(target, never)
    }
    assert sorted(refused) == []


def test_exceptions_are_modules_that_are_there() -> None:
    assert {each for rule in RULES for each in rule.but} <= modules().keys()


def test_nothing_is_imported_from_a_test() -> None:
    """Tests share code through `testing` and `harness` modules."""
    refused = {
        f"{path.relative_to(ROOT)} imports {target}"
        for folder in (*PACKAGES, "integration_tests", "tools", ".ci")
        for path in (ROOT / folder).rglob("*.py")
        for name, attribute, _ in _imports(ast.parse(path.read_text("utf-8")))
        for target in (name, f"{name}.{attribute}")
        if target.endswith(("_test", ".conftest"))
    }
    assert sorted(refused) == []
