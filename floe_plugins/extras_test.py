import importlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from floe_plugins.extras import brings, install_command, requirements

METADATA = """Metadata-Version: 2.1
Name: floe-llm
Version: 0.1.0
Requires-Dist: numpy>=1.26
Requires-Dist: scikit-learn>=1.5; extra == 'half'
Requires-Dist: floe-llm[half]; extra == 'whole'
Requires-Dist: torch<3; extra == 'whole'
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """Return a function that installs a Floe with the installer's record of its origin."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(origin: object) -> None:
        info = tmp_path / "floe_llm-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(METADATA)
        if origin is not None:
            (info / "direct_url.json").write_text(json.dumps(origin))
        importlib.invalidate_caches()

    return install


def test_an_extra_brings_what_it_and_the_extras_in_it_require(
    installed: Callable[[object], None],
) -> None:
    installed(None)
    assert [str(one.specifier) for one in requirements("whole")] == [">=1.5", "<3"]
    assert brings("whole", "sklearn.metrics")
    assert brings("whole", "torch")
    assert not brings("half", "torch")
    # An extra does not bring the base's requirements.
    assert not brings("whole", "numpy")
    assert requirements("absent") == []


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'floe-llm[gliner]'"),
        ({"url": "file:///a%20b/floe", "dir_info": {}}, "pip install '/a b/floe[gliner]'"),
        (
            {"url": "https://x.example/floe", "vcs_info": {"vcs": "git", "commit_id": "1"}},
            "pip install 'floe-llm[gliner] @ git+https://x.example/floe'",
        ),
        (
            {"url": "https://x.example/floe.whl", "archive_info": {}},
            "pip install 'floe-llm[gliner] @ https://x.example/floe.whl'",
        ),
    ],
)
def test_the_command_installs_from_where_floe_came_from(
    installed: Callable[[object], None], origin: object, command: str
) -> None:
    installed(origin)
    assert install_command("gliner") == command
