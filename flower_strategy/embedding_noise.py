"""The seed of a device's embedding noise: the same texts are always sent with the same noise.

A device is asked for its embedding more than once: when devices are clustered again, when it was
left out, after a restart. With fresh noise each time, the mean of n answers would have its noise
divided by the root of n. So the noise follows from the texts, the settings, and a secret that
never leaves the device: asking again tells nothing new until the texts change.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from floe_plugins.paths import cache_dir
from flower_strategy.embedding import EmbeddingSettings

SECRET_FILE = "embedding-noise-secret"
_SECRET_BYTES = 32


def noise_seed(texts: Sequence[str], settings: EmbeddingSettings) -> int:
    """Return the seed of the noise for these texts and settings, 128 bits.

    Parameters
    ----------
    texts : Sequence[str]
        The texts that are embedded.
    settings : EmbeddingSettings
        How they are.
    """
    digest = hashlib.sha256(_secret(cache_dir() / SECRET_FILE))
    digest.update(repr(settings).encode())
    for text in texts[: settings.texts]:
        # Hashed one by one, so that no two lists of texts run together into one.
        digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    return int.from_bytes(digest.digest()[:16], "big")


def _secret(path: Path) -> bytes:
    """Return the device's secret, made at the first call and readable by its user alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_name(f"{path.name}.{os.getpid()}.part")
    if not path.exists():
        descriptor = os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_SECRET_BYTES))
        # Of several processes the first one's secret stays.
        with contextlib.suppress(FileExistsError):
            os.link(whole, path)
        whole.unlink()
    return path.read_bytes()
