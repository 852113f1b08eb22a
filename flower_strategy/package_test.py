import subprocess
import sys

import flower_strategy


def test_every_public_name_exists() -> None:
    for name in flower_strategy.__all__:
        assert getattr(flower_strategy, name) is not None
    assert sorted(flower_strategy._HOMES) == sorted(flower_strategy.__all__)


def test_importing_the_package_is_light() -> None:
    heavy = "('torch', 'transformers', 'flwr', 'peft', 'sklearn')"
    code = f"import sys, flower_strategy; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_only_flowers_public_modules_are_imported() -> None:
    import ast
    from pathlib import Path

    # Everything else in Flower moves between releases.
    allowed = {"flwr.app", "flwr.serverapp", "flwr.serverapp.strategy", "flwr.clientapp"}
    project = Path(flower_strategy.__file__).parents[1]
    packages = ("floe_plugins", "flower_strategy", "integration_tests", "vllm_logits_processor")
    paths = [path for package in packages for path in (project / package).rglob("*.py")]
    assert len(paths) > 100
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                if name and name.split(".")[0] == "flwr":
                    assert name in allowed, path
