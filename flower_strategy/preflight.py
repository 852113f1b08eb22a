"""What a run is checked for before it starts: keys, model, text, memory, output.

The Flower App of a simulation makes these checks first, and ``floe-llm doctor train`` makes them
without Flower.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from floe_plugins import models
from floe_plugins.errors import ConfigError
from flower_strategy.adapters.modules import AdaptedModules
from flower_strategy.config import RunConfig
from flower_strategy.data import Example, check_shared_data, first_examples
from flower_strategy.device.base_model import check_base_model
from flower_strategy.device.encoding import Encoder
from flower_strategy.device.hardware import available_memory
from flower_strategy.device.model_checks import read_tokenizer
from flower_strategy.device.quantization import quantization_config
from flower_strategy.server.sole_writer import sole_writer

_SHOWN = 64
"""Characters of a prompt's end and of a response that are shown."""

_SAMPLED = 64
"""Examples of a task that are encoded."""

_FLOAT32 = 4

_BITS = {"float32": 32, "bfloat16": 16, "8bit": 8, "4bit": 4}
"""What a weight of the base model takes, more or less: some layers are not quantised."""


@dataclass(frozen=True)
class Check:
    """One thing that a run needs.

    Attributes
    ----------
    subject : str
        What is looked at.
    look : Callable[[], str]
        Returns what it is like; raises `FloeError` with one sentence where it does not do.
    """

    subject: str
    look: Callable[[], str]


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """The checks of a simulation.

    Attributes
    ----------
    config : RunConfig
        The run configuration.
    num_partitions : int
        Number of simulated nodes.
    show_texts : bool (default: False)
        Whether the check of the text shows some of it; not where others can read the log.
    """

    config: RunConfig
    num_partitions: int
    show_texts: bool = False

    def checks(self) -> list[Check]:
        """Return the checks in order, the cheapest first."""
        return [
            Check("output", self.output),
            Check("model", self.model),
            Check("memory", self.memory),
            Check("data", self.data),
            Check("text", self.text),
        ]

    @cached_property
    def _path(self) -> str:
        return models.resolve(self.config.model, progress=True)

    @cached_property
    def modules(self) -> AdaptedModules:
        """Which modules of the base model carry factors; errors as `check_base_model`."""
        return check_base_model(
            self.config.model,
            max_length=self.config.max_length,
            target_modules=self.config.target_modules,
            weights=True,
        )

    def model(self) -> str:
        """Check the base model's files, and that something of it can be adapted."""
        quantization_config(self.config.quantization, self.config.dtype)
        modules = self.modules
        said = (
            f"{self.config.model}: {modules.architecture} of {modules.weights / 1e6:,.0f} million "
            f"weights; {len(modules.shapes)} modules with {modules.share:.0%} of them carry "
            f"factors: {', '.join(modules.names)}"
        )
        for reason, groups in modules.left_out().items():
            said += f"; not {', '.join(group.name for group in groups)}: {reason}"
        return said

    def memory(self) -> str:
        """Check that the weights fit into what is free."""
        kind = self.config.dtype if self.config.quantization == "none" else self.config.quantization
        needed = _BITS[kind] * self.modules.weights // 8
        where, free = "machine", available_memory()
        # Devices of a simulation train on a GPU only where they are given a share of it.
        if torch.cuda.is_available() and (on_gpu := torch.cuda.mem_get_info()[0]) > free:
            where, free = "GPU", on_gpu
        said = f"{needed / 1e9:.2f} GB of weights in {kind}"
        if needed > free:
            raise ConfigError(
                f"Model {self.config.model!r} has {said}, and {free / 1e9:.2f} GB are free on this "
                f"{where}: choose a smaller model, dtype='bfloat16' or quantization."
            )
        return f"{said}, {free / 1e9:.2f} GB free on this {where}; every device at a time holds one"

    def data(self) -> str:
        """Check that every node gets examples enough."""
        check_shared_data(self.config, num_partitions=self.num_partitions)
        return f"{self.config.data}: enough for {self.num_partitions} nodes"

    def text(self) -> str:
        """Check that a response is left to be learned of the first examples of every task."""
        config = self.config
        tokenizer = read_tokenizer(config.model, self._path)
        encoder = Encoder(tokenizer, template=config.template, max_length=config.max_length)
        tasks = first_examples(config, most=_SAMPLED)
        said = [self._of_task(encoder, tokenizer, name, tasks[name]) for name in tasks]
        return f"form {encoder.form!r}; " + "; ".join(said)

    def _of_task(
        self, encoder: Encoder, tokenizer: Any, name: str, examples: Sequence[Example]
    ) -> str:
        encoded = [encoder.encode(example) for example in examples]
        if not any(any(each.learned) for each in encoded):
            raise ConfigError(
                f"No token of the first {len(encoded)} examples of {name!r} would be learned at "
                f"max-length={self.config.max_length}: set a larger one."
            )
        full = sum(len(each.ids) == self.config.max_length for each in encoded)
        said = f"{name}: {full} of {len(encoded)} reach max-length={self.config.max_length}"
        if cut := sum(not each.ends for each in encoded):
            said += (
                f", and {cut} lose the end of their response: set a larger one, or the model may "
                "not learn to end its answers"
            )
        if not self.show_texts:
            return said
        first = encoded[0]
        split = first.learned.index(True) if True in first.learned else len(first.ids)
        prompt = tokenizer.decode(first.ids[:split])[-_SHOWN:]
        response = tokenizer.decode(first.ids[split:])[:_SHOWN]
        return f"{said}, such as ...{prompt!r} -> {response!r}..."

    def output(self) -> str:
        """Check that the output folder can be written, and by no other run."""
        output = Path(self.config.output).expanduser().absolute()
        if output.exists():
            with sole_writer(output):
                pass
        parent = next(each for each in (output, *output.parents) if each.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise ConfigError(
                f"The output folder {output} cannot be written: {parent} is no folder that this "
                "user may write to; choose another output."
            )
        free = shutil.disk_usage(parent).free
        needed = self.modules.trained(self.config.export_rank) * _FLOAT32
        if needed > free:
            raise ConfigError(
                f"The output folder {output} has {free / 1e6:.0f} MB free, and one exported "
                f"adapter needs {needed / 1e6:.0f} MB: choose another output."
            )
        return f"{output}: {needed / 1e6:.0f} MB an adapter, {free / 1e9:.1f} GB free"
