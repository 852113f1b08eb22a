r"""The noise on a device's task embedding: drawn once, whatever a server asks, and how often.

A device is asked for its embedding more than once: when devices are clustered again, when it was
left out, after a restart, in another run. The server chooses the noise, the number of texts and
their length, the model, and through seed and templates which of the device's texts come first.
With fresh noise for each of these the mean of n answers would have its noise divided by the root
of n. So the device keeps what it has answered (`flower_strategy.device.embedding_answers`), and

- while it holds at least half of the texts of its last answer, it repeats that answer, whatever
  the settings. It does so also where less noise is asked, or none.
- where more noise is asked, noise is added to *the answer*, never drawn anew around the mean of
  the texts: with e + n_1 told, e + n_1 + n_2 is told then and from then on. It is made of the
  first answer and of chance, so all answers together tell no more of e than the first one.
  (Scaling one direction, e + a z and e + b z, would give e away: two equations, two unknowns.)
- for another base model it refuses: noise drawn anew around the same texts is a second answer.
- when its texts have changed, the next answer is made of texts that no answer has used yet.

So each text takes part in one noisy answer at most. A text moves the mean of n unit vectors by 2/n
at most, which makes the answer 2/(n sigma)-GDP with respect to it: Dong, Roth and Su, "Gaussian
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
    """The device does not tell its task embedding; the message is the reason."""


def least_noise(node_config: NodeConfig) -> float:
    """Return the least noise that a device answers with, 0 where it sets none.

    Parameters
    ----------
    node_config : Mapping
        ``flower-supernode --node-config``; ``min-embedding-noise`` is the least.

    Raises
    ------
    ConfigError
        The value is no number from 0 to 100, or a key is that one misspelt.
    """
    if MIN_NOISE_KEY not in node_config:
        for key in node_config:
            plain = key.lower().replace("_", "-")
            # Misspelt, the floor would silently not be there.
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

    Nodes that share a folder are told apart by ``partition-id`` and ``num-partitions``. SuperNodes
    without these share a file, in which their texts tell them apart.
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
    """Return the task embedding that a device tells; the texts stay here.

    Parameters
    ----------
    base : BaseModel
        The frozen model.
    data : LocalData
        What the device holds.
    settings : EmbeddingSettings
        What the server asks for.
    node_config : Mapping
        ``flower-supernode --node-config``.
    folder : Path, optional
        Where answers are kept; ``embedding-answers`` in Floe's state folder if not given.

    Raises
    ------
    EmbeddingRefusedError
        The server asks for less noise than the device allows, or for another model than that of
        the answer that holds; or answers cannot be kept.
    ConfigError
        The device's own setting is not accepted.
    """
    least = least_noise(node_config)
    if settings.noise < least:
        raise EmbeddingRefusedError(
            f"embedding-noise={settings.noise:g} is below this device's {MIN_NOISE_KEY}={least:g}: "
            "it does not tell its task embedding with less noise."
        )
    path = answers_file(node_config, folder=folder)
    if not settings.noise and not path.exists():
        texts = [example.text for example in data.train]
        return mean_embedding(base, texts, settings).embedding()
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
    held = {answers.hashed(example.origin) for example in data.everything}
    answer = answers.holding(held)
    if answer is None:
        used = answers.used()
        new = [each for each in data.train if answers.hashed(each.origin) not in used]
        if new or not answers.told:
            return _fresh(answers, base, new[: settings.texts], settings)
        answer = answers.sharing(held)
    if answer.model != base.path:
        # Neither path is the server's business.
        logger.warning("The embedding's answer is by %s, asked is %s.", answer.model, base.path)
        raise EmbeddingRefusedError(
            "This device has told a noisy embedding of its texts by another base model and tells "
            "no second one: the two would have less noise together. Its owner can remove its "
            f"folder {ANSWERS_FOLDER!r} to allow that."
        )
    if settings.noise > answer.mean.noise:
        answer = answers.replace(answer, answer.mean.blurred(settings.noise))
    return answer.mean.embedding()


def _fresh(
    answers: Answers, base: BaseModel, examples: Sequence[Example], settings: EmbeddingSettings
) -> TaskEmbedding:
    """Return the embedding of texts that no answer has used, and keep it where it has noise."""
    mean = mean_embedding(base, [example.text for example in examples], settings)
    if settings.noise:
        mean = mean.blurred(settings.noise)
        texts = frozenset(answers.hashed(example.origin) for example in examples)
        answers.told.append(Answer(texts, base.path, mean))
    return mean.embedding()
