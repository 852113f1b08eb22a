from dataclasses import replace
from pathlib import Path

import pytest

from flower_strategy import embedding_noise
from flower_strategy.embedding import EmbeddingSettings
from flower_strategy.embedding_noise import SECRET_FILE, noise_seed

SETTINGS = EmbeddingSettings(texts=2, noise=0.5)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(embedding_noise, "cache_dir", lambda: tmp_path)
    return tmp_path


def test_the_same_texts_get_the_same_noise_and_others_get_other_noise(cache: Path) -> None:
    seed = noise_seed(["one", "two", "not embedded"], SETTINGS)
    assert noise_seed(["one", "two"], SETTINGS) == seed
    assert noise_seed(["one", "three"], SETTINGS) != seed
    assert noise_seed(["onet", "wo"], SETTINGS) != seed
    assert noise_seed(["one", "two"], replace(SETTINGS, noise=0.6)) != seed


def test_another_devices_secret_gives_other_noise(cache: Path) -> None:
    seed = noise_seed(["one", "two"], SETTINGS)
    secret = cache / SECRET_FILE
    assert secret.stat().st_mode & 0o077 == 0
    assert [path.name for path in cache.iterdir()] == [SECRET_FILE]
    secret.unlink()
    assert noise_seed(["one", "two"], SETTINGS) != seed
