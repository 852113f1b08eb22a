r"""The noise on a device's task embedding: drawn once, whatever and however often a server asks.

A device is asked for its embedding more than once: when devices are clustered again, when it was
left out, after a restart, in another run. The server chooses the noise, the number of texts and
their length, the model, and through seed and templates which of the device's texts come first.
With fresh noise each time, averaging n answers would divide the noise by the square root of n. The
device therefore keeps its answers (`flower_strategy.device.embedding_answers`):

- While it holds at least half of the texts of its last answer, it repeats that answer whatever the
  settings, even if less noise or none is requested.
- If more noise is requested, it adds noise to *the answer* and never draws it anew around the mean
  of the texts: after e + n_1 it sends e + n_1 + n_2 from then on. That sum depends on the first
  answer and on chance alone, so all answers together reveal no more of e than the first one.
  (Scaling one direction, e + a z and e + b z, would reveal e: two equations, two unknowns.)
- For another base model it refuses: fresh noise around the same texts would be a second answer.
- When its texts have changed, it makes the next answer from texts that no answer has used yet.

Each text thus takes part in at most one noisy answer. A text moves the mean of n unit vectors by at
most 2/n, which makes the answer 2/(n sigma)-GDP with respect to it: Dong, Roth and Su, "Gaussian
Differential Privacy" (arXiv 1905.02383), theorem 1.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from floe_plugins.checks import is_number
from floe_plugins.errors import ConfigError, FloeError
from floe_plugins.system import state_dir
from flower_strategy.data.examples import Example, LocalData
from flower_strategy.device.base_model import BaseModel
from flower_strategy.device.embedding import TaskEmbedding, mean_embedding
from flower_strategy.device.embedding_answers import Answer, Answers, AnswersError, kept_answers
from flower_strategy.settings import EmbeddingSettings
from flower_strategy.simulation import NodeConfig

logger = logging.getLogger("flwr")

MIN_NOISE_KEY = "min-embedding-noise"
ANSWERS_FOLDER = "embedding-answers"
_MOST_NOISE = 100
_NODE_KEYS = ("partition-id", "num-partitions")


class EmbeddingRefusedError(FloeError, RuntimeError):
    """The device does not send its task embedding; the message is the reason."""


def least_noise(node_config: NodeConfig) -> float:
    """Return the least noise that a device answers with; 0 if it sets none.

    Parameters
    ----------
    node_config : Mapping
        ``flower-supernode --node-config``; ``min-embedding-noise`` is the least.

    Raises
    ------
    ConfigError
        The value is not a number from 0 to 100, or the key is misspelt.
    """
    if MIN_NOISE_KEY not in node_config:
        for key in node_config:
            plain = key.lower().replace("_", "-")
            # A misspelt key would silently set no floor.
            if difflib.get_close_matches(plain, [MIN_NOISE_KEY], cutoff=0.8):
                raise ConfigError(
                    f"--node-config has the unknown key {key!r}; did you mean {MIN_NOISE_KEY!r}?"
                )
        return 0.0
    value = node_config[MIN_NOISE_KEY]
    if not is_number(value) or not 0 <= value <= _MOST_NOISE:
        raise ConfigError(
            f"--node-config {MIN_NOISE_KEY}={value!r} must be a number from 0 to {_MOST_NOISE}."
        )
    return float(value)


def answers_file(node_config: NodeConfig, *, folder: Path | None = None) -> Path:
    """Return the file of a node's answers.

    Nodes that share a folder are distinguished by ``partition-id`` and ``num-partitions``.
    SuperNodes without these share a file, in which their texts distinguish them.
    """
    known = [f"{key}={node_config[key]}" for key in _NODE_KEYS if key in node_config]
    name = hashlib.sha256(",".join(known).encode()).hexdigest()[:16] if known else "device"
    return (folder or state_dir() / ANSWERS_FOLDER) / f"{name}.json"


def device_embedding(
    base: BaseModel,
    data: LocalData,
    settings: EmbeddingSettings,
    node_config: NodeConfig,
    *,
    folder: Path | None = None,
) -> TaskEmbedding:
    """Return the task embedding that a device sends; its texts stay on the device.

    Parameters
    ----------
    base : BaseModel
        The frozen model.
    data : LocalData
        The device's data.
    settings : EmbeddingSettings
        The server's settings.
    node_config : Mapping
        ``flower-supernode --node-config``.
    folder : Path, optional
        Where answers are kept; ``embedding-answers`` in Floe's state folder if not given.

    Raises
    ------
    EmbeddingRefusedError
        The server requests less noise than the device allows, or another model than that of the
        current answer; or answers cannot be kept.
    ConfigError
        The device's own setting is invalid.
    """
    least = least_noise(node_config)
    if settings.noise < least:
        raise EmbeddingRefusedError(
            f"embedding-noise={settings.noise:g} is below this device's {MIN_NOISE_KEY}={least:g}: "
            "it does not tell its task embedding with less noise."
        )
    path = answers_file(node_config, folder=folder)
    if not settings.noise and not path.exists():
        return mean_embedding(base, data.train, settings).embedding()
    try:
        with kept_answers(path) as answers:
            return _answered(answers, base, data, settings)
    except AnswersError as error:
        raise EmbeddingRefusedError(
            f"This device does not tell its task embedding: {error}."
        ) from error


def _answered(
    answers: Answers, base: BaseModel, data: LocalData, settings: EmbeddingSettings
) -> TaskEmbedding:
    # Files may hold more than fits in memory: texts that no answer has used are not kept.
    used = answers.used()
    hashes = (answers.hashed(example.origin) for example in data.everything)
    held = {hashed for hashed in hashes if hashed in used}
    answer = answers.holding(held)
    if answer is None:
        new = [each for each in data.train if answers.hashed(each.origin) not in used]
        if new or not answers.sent:
            return _fresh(answers, base, new[: settings.texts], settings)
        answer = answers.sharing(held)
    if answer.model != base.path:
        # The server must not see the paths.
        logger.warning("The embedding's answer is by %s, asked is %s.", answer.model, base.path)
        raise EmbeddingRefusedError(
            "This device has sent a noisy embedding of its texts by another base model and sends "
            "no second one: the two would have less noise together. Its owner can remove its "
            f"folder {ANSWERS_FOLDER!r} to allow that."
        )
    if settings.noise > answer.mean.noise:
        answer = answers.replace(answer, answer.mean.blurred(settings.noise))
    return answer.mean.embedding()


def _fresh(
    answers: Answers, base: BaseModel, examples: Sequence[Example], settings: EmbeddingSettings
) -> TaskEmbedding:
    """Return the embedding of texts that no answer has used, and keep it if it has noise."""
    mean = mean_embedding(base, examples, settings)
    if settings.noise:
        mean = mean.blurred(settings.noise)
        texts = frozenset(answers.hashed(example.origin) for example in examples)
        answers.sent.append(Answer(texts, base.path, mean))
    return mean.embedding()
