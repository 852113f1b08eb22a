"""The demonstration's figures, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from integration_tests.demo.answering import Answer
from integration_tests.demo.federation import Federation


def draw_all(
    federation: Federation,
    clusters: Sequence[Mapping[str, Any]],
    answers: Sequence[Answer],
    folder: Path,
) -> dict[str, Path]:
    """Draw every figure into `folder`; return its file under its title."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "Task embeddings: cosine between devices": ("embeddings", _embeddings(federation)),
        "LoRA rank per device": ("ranks", _ranks(federation)),
        "Held-out loss per round": ("loss", draw_loss(clusters)),
        "Weight of the expert over the answer": ("weights", _weights(answers)),
    }
    return {
        title: save_figure(figure, folder / f"{name}.png")
        for title, (name, figure) in figures.items()
    }


def save_figure(figure: Figure, file: Path) -> Path:
    """Write and close a figure; return the file."""
    figure.savefig(file, dpi=110, bbox_inches="tight")
    plt.close(figure)
    return file


def _devices(federation: Federation) -> list[dict[str, object]]:
    """Return the devices with those of a cluster side by side."""
    devices = federation.manifest["devices"]
    return sorted(devices, key=lambda device: (str(device["cluster"]), str(device["device"])))


def _names(federation: Federation) -> list[str]:
    return [f"{each['device']}\n{each['label']}" for each in _devices(federation)]


def _embeddings(federation: Federation) -> Figure:
    vectors = np.array([device["embedding"] for device in _devices(federation)])
    cosines = vectors @ vectors.T
    figure, axes = plt.subplots(figsize=(6, 5))
    image = axes.imshow(cosines, vmin=0.4, vmax=1.0, cmap="viridis")
    names = _names(federation)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    for (row, column), cosine in np.ndenumerate(cosines):
        shade = "black" if cosine > 0.8 else "white"
        axes.text(column, row, f"{cosine:.2f}", ha="center", va="center", color=shade, fontsize=8)
    figure.colorbar(image, label="cosine")
    return figure


def _ranks(federation: Federation) -> Figure:
    figure, axes = plt.subplots(figsize=(6, 3.5))
    devices = _devices(federation)
    classes = sorted({str(device["device"]) for device in devices})
    for place, device in enumerate(devices):
        colour = f"C{classes.index(str(device['device']))}"
        rank = int(str(device["rank"] or 0))
        axes.bar(place, rank, color=colour)
        axes.text(place, rank, str(rank or "out"), ha="center", va="bottom", fontsize=9)
    axes.set_xticks(range(len(devices)), _names(federation), fontsize=8)
    axes.set_ylabel("LoRA rank")
    return figure


def draw_loss(clusters: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw each cluster's losses by round, and dotted those of its devices alone."""
    figure, axes = plt.subplots(figsize=(6, 3.5))
    for place, cluster in enumerate(clusters):
        colour = f"C{place}"
        axes.plot(cluster["losses"], marker="o", color=colour, label=cluster["name"])
        axes.plot(cluster["alone"], marker=".", linestyle=":", color=colour)
    if any(cluster["alone"] for cluster in clusters):
        axes.plot([], [], marker=".", linestyle=":", color="black", label="each device alone")
    axes.set_xticks(range(max(len(cluster["losses"]) for cluster in clusters)))
    axes.set_xlabel("round")
    axes.set_ylabel("held-out loss, nats per token")
    axes.legend()
    return figure


def _weights(answers: Sequence[Answer]) -> Figure:
    shown = [answer for answer in answers if answer.weights]
    figure, grid = plt.subplots(len(shown), 1, figsize=(10, 2.4 * len(shown)), squeeze=False)
    for axes, answer in zip(grid[:, 0], shown, strict=True):
        weights = answer.weights[: len(answer.tokens)]
        axes.bar(range(len(weights)), weights, color="C0")
        tokens = [token.replace("\n", "\\n").replace("$", r"\$") for token in answer.tokens]
        axes.set_xticks(range(len(weights)), tokens[: len(weights)], rotation=90, fontsize=7)
        axes.set_ylim(0, 1)
        axes.set_ylabel("weight")
        axes.set_title(answer.prompt.name, fontsize=9, loc="left")
    figure.tight_layout()
    return figure
