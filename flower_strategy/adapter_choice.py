"""Chooses the adapter of a run for a text: that of the cluster with the nearest centroid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from floe_plugins.errors import ConfigError
from flower_strategy.run_folder import RunFolderError, load_manifest, result_folder

if TYPE_CHECKING:
    from flower_strategy.adapters.adapter import Float32Array
    from flower_strategy.profile import Form

ROUTES: Mapping[Form, str] = {"chat": "/v1/chat/completions", "plain": "/v1/completions"}
"""Form -> the route of an OpenAI-compatible server that asks in it."""


@dataclass(frozen=True)
class AdapterChoice:
    """The adapter for a text.

    Attributes
    ----------
    name : str
        The cluster.
    path : Path
        Its adapter's folder, which a later result does not change.
    form : Form
        The form that the adapter was trained in.
    cosines : Mapping[str, float]
        Cluster -> cosine of its centroid and the text's embedding.
    least_cosine : float or None
        The least that a prompt of the cluster's task has, about; None if the run does not know.
    """

    name: str
    path: Path
    form: Form
    cosines: Mapping[str, float]
    least_cosine: float | None = None

    @property
    def fits(self) -> bool:
        """Whether the text may be of the task that the adapter was trained for.

        Outside its task an adapter is sure and wrong; the model without one is the better choice.
        """
        return self.least_cosine is None or self.cosines[self.name] >= self.least_cosine

    @property
    def route(self) -> str:
        """The route of an OpenAI-compatible server that asks the adapter in its form."""
        return ROUTES[self.form]


def choose_adapter(manifest: Mapping[str, Any], embedding: Float32Array) -> str:
    """Return the name of the cluster whose centroid is closest in angle to an embedding.

    Parameters
    ----------
    manifest : Mapping[str, Any]
        The result of `flower_strategy.load_manifest`.
    embedding : Float32Array
        Shape (hidden,), of a text, by `embed_texts` with the same base model.

    Raises
    ------
    flower_strategy.run_folder.RunFolderError
        The manifest has no cluster, or a centroid is that of another model.
    """
    return _closest(_cosines(manifest, embedding))


def adapter_for_text(folder: Path | str, text: str) -> AdapterChoice:
    """Return the adapter of a run that fits a text best.

    The text is embedded as the devices embed theirs, with the run's frozen base model.

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
    folder = result_folder(folder)
    manifest = load_manifest(folder)
    if not text.strip():
        raise ConfigError("There is no text to choose an adapter for: it is empty.")
    clusters = {cluster["name"]: cluster for cluster in _clusters(manifest)}

    from flower_strategy.device.base_model import load_base_model
    from flower_strategy.device.embedding import embed_texts

    training = manifest.get("training") or {}
    settings = manifest.get("embedding") or {}
    base = load_base_model(manifest["model"], training.get("dtype", "float32"))
    length = settings.get("max_length") or training.get("max_length", 64)
    template = training.get("template", "none")
    vector = embed_texts(base, [text], max_length=int(length), template=template)[0]
    cosines = _cosines(manifest, vector)
    name = _closest(cosines)
    return AdapterChoice(
        name,
        folder / clusters[name]["adapter"],
        form_of(clusters[name]),
        cosines,
        clusters[name].get("least_cosine"),
    )


def form_of(cluster: Mapping[str, Any]) -> Form:
    """Return the form that a cluster of a manifest was trained in; without one it is plain."""
    return "chat" if cluster.get("form") == "chat" else "plain"


def _clusters(manifest: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = manifest["clusters"]
    if not found:
        raise RunFolderError("The run has no cluster, so there is no adapter to choose.")
    return found


def _closest(cosines: Mapping[str, float]) -> str:
    return max(cosines, key=lambda name: cosines[name])


def _cosines(manifest: Mapping[str, Any], embedding: Float32Array) -> dict[str, float]:
    """Return cluster -> cosine of its centroid and an embedding."""
    cosines = {}
    for cluster in _clusters(manifest):
        centroid = np.asarray(cluster["centroid"], dtype=np.float64)
        if centroid.shape != embedding.shape:
            raise RunFolderError(
                f"The centroid of {cluster['name']} has {centroid.size} dimensions, the "
                f"embedding {embedding.size}: it is another model's."
            )
        lengths = float(np.linalg.norm(centroid)) * float(np.linalg.norm(embedding))
        cosines[str(cluster["name"])] = float(centroid @ embedding) / max(lengths, 1e-12)
    return cosines
