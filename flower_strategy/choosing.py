"""Which of a run's adapters serves a text: the one whose cluster's centroid is nearest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from floe_plugins.errors import ConfigError
from flower_strategy.run_folder import RunFolderError, load_manifest


@dataclass(frozen=True)
class AdapterChoice:
    """The adapter for a text.

    Attributes
    ----------
    name : str
        The cluster.
    path : Path
        Its adapter's folder.
    cosines : Mapping[str, float]
        Cluster -> cosine of its centroid and the text's embedding.
    """

    name: str
    path: Path
    cosines: Mapping[str, float]


def adapter_for_text(folder: Path | str, text: str) -> AdapterChoice:
    """Return the adapter of a run that serves a text best.

    The text is embedded as the devices embedded theirs, with the run's frozen base model.

    Parameters
    ----------
    folder : Path or str
        The run's output folder.
    text : str
        The text; not empty.

    Raises
    ------
    flower_strategy.run_folder.RunFolderError
        The folder holds no run that can be read, or one without clusters.
    floe_plugins.errors.ConfigError
        The text is empty.
    floe_plugins.errors.ModelError
        The run's base model cannot be found.
    """
    manifest = load_manifest(folder)
    if not text.strip():
        raise ConfigError("There is no text to choose an adapter for: it is empty.")
    if not manifest["clusters"]:
        raise RunFolderError(f"The run in {folder} has no cluster, so there is no adapter.")

    from flower_strategy.base_model import load_base_model
    from flower_strategy.embedding import embed_texts
    from flower_strategy.export import choose_adapter

    training = manifest.get("training") or {}
    settings = manifest.get("embedding") or {}
    base = load_base_model(manifest["model"], training.get("dtype", "float32"))
    length = settings.get("max_length") or training.get("max_length", 64)
    vector = embed_texts(base, [text], max_length=int(length))[0]
    cosines = {}
    for cluster in manifest["clusters"]:
        centroid = np.asarray(cluster["centroid"], dtype=np.float64)
        if centroid.shape != vector.shape:
            raise RunFolderError(
                f"The centroid of {cluster['name']} in {folder} has {centroid.size} dimensions, "
                f"the base model's embedding {vector.size}: it is another model's."
            )
        norm = max(float(np.linalg.norm(centroid)), 1e-12)
        cosines[str(cluster["name"])] = float(centroid @ vector) / norm
    name = choose_adapter(manifest, vector)
    adapters = {cluster["name"]: cluster["adapter"] for cluster in manifest["clusters"]}
    return AdapterChoice(name, Path(folder) / adapters[name], cosines)
