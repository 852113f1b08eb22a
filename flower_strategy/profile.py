"""The profile that a device sends to the server before the first round."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from floe_plugins.errors import FloeError
from flower_strategy.adapters.adapter import Float32Array

Form = Literal["chat", "plain"]
"""How a text is trained on and asked: rendered by the chat template, or as it is."""

PROFILE_KEY = "profile"
DEVICE_KEY = "device"
EMBEDDING_KEY = "embedding"
_FORMS: tuple[Form, ...] = get_args(Form)
_LONGEST_NAME = 64
SIMULATED_IDENTITY = "partition:"
"""What the identity of a simulated node begins with."""

MOST_EXAMPLES = 10_000_000
"""Most examples that a device may say it has."""

_MOST_BYTES = 2**50
_LARGEST_RANK = 4096


class ProfileError(FloeError, ValueError):
    """A reply is not a usable device profile; the message says why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceProfile:
    """A device's measured budget and its task embedding.

    Attributes
    ----------
    device : str
        Class of the device.
    label : str
        Name of the node's main task in a simulated run, else empty.
    identity : str
        Identity that survives a change of the node's id: ``partition:3`` for a simulated node,
        ``name:...`` for a SuperNode whose --node-config has a ``name``, else empty. A resumed run
        recognises its devices by it.
    form : Form (default: "plain")
        The form that the device trains most of its examples in.
    memory_bytes : int
        Memory that training may use.
    fixed_bytes : int
        Memory that training takes at any rank: base weights and activations.
    bytes_per_rank : int
        Memory that one rank adds: factors, gradients, AdamW's two moments.
    upload_per_rank : int
        Bytes of one rank's factors on the wire.
    step_ranks : tuple[int, int]
        The two ranks that were timed.
    step_seconds : tuple[float, float]
        Seconds per optimizer step at these ranks.
    bandwidth : float
        Upload in bytes per second, infinite if unknown.
    num_examples : int
        Training examples on the device.
    embedding : Float32Array
        Task embedding, shape (hidden,), unit length.
    embedding_error : float
        Standard error of the embedding, see `flower_strategy.device.embedding.TaskEmbedding`.
    embedding_noise : float
        Noise in the embedding, which may be more than requested, see
        `flower_strategy.device.embedding_noise`.
    least_cosine : float (default: -1.0)
        The least cosine with the embedding that a prompt of the device's task has, about; -1 where
        that is not known, see `flower_strategy.device.embedding.least_cosine`.
    keeps_state : bool (default: True)
        Whether the device keeps an adapter of its own between rounds.
    download_rank : int (default: 0)
        The rank at which its cluster's adapter comes down at least. The server sets it; a device
        does not send it.
    """

    device: str
    label: str = ""
    identity: str = ""
    form: Form = "plain"
    memory_bytes: int
    fixed_bytes: int
    bytes_per_rank: int
    upload_per_rank: int
    step_ranks: tuple[int, int]
    step_seconds: tuple[float, float]
    bandwidth: float
    num_examples: int
    embedding: Float32Array
    embedding_error: float = 0.0
    embedding_noise: float = 0.0
    least_cosine: float = -1.0
    keeps_state: bool = True
    download_rank: int = 0

    def to_record(self) -> RecordDict:
        """Write the profile into the content of a reply."""
        return RecordDict(
            {
                PROFILE_KEY: MetricRecord(
                    {
                        "memory-bytes": self.memory_bytes,
                        "fixed-bytes": self.fixed_bytes,
                        "bytes-per-rank": self.bytes_per_rank,
                        "upload-per-rank": self.upload_per_rank,
                        "step-ranks": list(self.step_ranks),
                        "step-seconds": list(self.step_seconds),
                        "bandwidth": self.bandwidth,
                        "num-examples": self.num_examples,
                        "embedding-error": self.embedding_error,
                        "embedding-noise": self.embedding_noise,
                        "least-cosine": self.least_cosine,
                    }
                ),
                DEVICE_KEY: ConfigRecord(
                    {
                        "device": self.device,
                        "label": self.label,
                        "identity": self.identity,
                        "form": self.form,
                        "keeps-state": self.keeps_state,
                    }
                ),
                EMBEDDING_KEY: ArrayRecord({"embedding": Array(self.embedding)}),
            }
        )

    @staticmethod
    def from_record(record: RecordDict) -> DeviceProfile:
        """Read and check a profile.

        Raises
        ------
        ProfileError
            A part is missing, of the wrong type, or out of range.
        """
        try:
            numbers = record.metric_records[PROFILE_KEY]
            words = record.config_records[DEVICE_KEY]
            embedding = record.array_records[EMBEDDING_KEY]["embedding"].numpy()
            ranks = _pair(numbers, "step-ranks")
            profile = DeviceProfile(
                device=device_text(words["device"], most=_LONGEST_NAME),
                label=device_text(words["label"], most=_LONGEST_NAME),
                identity=device_text(words["identity"], most=_LONGEST_NAME),
                form=_form(words["form"]),
                memory_bytes=_whole(numbers, "memory-bytes"),
                fixed_bytes=_whole(numbers, "fixed-bytes"),
                bytes_per_rank=_whole(numbers, "bytes-per-rank"),
                upload_per_rank=_whole(numbers, "upload-per-rank"),
                step_ranks=(int(ranks[0]), int(ranks[1])),
                step_seconds=_pair(numbers, "step-seconds"),
                bandwidth=_real(numbers, "bandwidth"),
                num_examples=_whole(numbers, "num-examples"),
                embedding=embedding.astype(np.float32),
                embedding_error=_real(numbers, "embedding-error"),
                embedding_noise=_real(numbers, "embedding-noise"),
                least_cosine=_real(numbers, "least-cosine") if "least-cosine" in numbers else -1.0,
                keeps_state=bool(words["keeps-state"]),
            )
        except KeyError as error:
            raise ProfileError(f"The profile has no {error}.") from error
        profile._check()
        return profile

    def _check(self) -> None:
        if self.num_examples < 1:
            raise ProfileError(f"num-examples is {self.num_examples}; at least 1 is needed.")
        if self.num_examples > MOST_EXAMPLES:
            raise ProfileError(
                f"num-examples is {self.num_examples}; {MOST_EXAMPLES} at most are accepted."
            )
        for name in ("memory_bytes", "fixed_bytes", "bytes_per_rank", "upload_per_rank"):
            if getattr(self, name) > _MOST_BYTES:
                raise ProfileError(f"{name} is {getattr(self, name):.3g}; that is no real device.")
        if not self.bandwidth >= 1:
            raise ProfileError(
                f"bandwidth is {self.bandwidth}; it must be at least 1 byte a second."
            )
        if not all(1 <= rank <= _LARGEST_RANK for rank in self.step_ranks):
            raise ProfileError(f"step-ranks is {self.step_ranks}; ranks are 1 to {_LARGEST_RANK}.")
        if not all(1e-9 < seconds < 1e7 for seconds in self.step_seconds):
            raise ProfileError(
                f"step-seconds is {self.step_seconds}; both must be above 1e-9 and below 1e7."
            )
        if not 0 <= self.embedding_error < 1e6:
            raise ProfileError(f"embedding-error is {self.embedding_error}; 0 to 1e6 is accepted.")
        if not 0 <= self.embedding_noise < 1e6:
            raise ProfileError(f"embedding-noise is {self.embedding_noise}; 0 to 1e6 is accepted.")
        if not -1 <= self.least_cosine <= 1:
            raise ProfileError(f"least-cosine is {self.least_cosine}; -1 to 1 is accepted.")
        norm = float(np.linalg.norm(self.embedding))
        if self.embedding.ndim != 1 or not math.isclose(norm, 1.0, abs_tol=1e-3):
            raise ProfileError(
                f"The embedding has shape {self.embedding.shape} and length {norm:.4g}; it must "
                "be one vector of length 1."
            )


def _form(value: object) -> Form:
    for form in _FORMS:
        if value == form:
            return form
    raise ProfileError(f"form is {value!r}; accepted is one of {', '.join(_FORMS)}.")


def _real(numbers: MetricRecord, key: str) -> float:
    value = numbers[key]
    if isinstance(value, list):
        raise ProfileError(f"{key} is {value}; one number is needed.")
    return float(value)


def _whole(numbers: MetricRecord, key: str) -> int:
    value = _real(numbers, key)
    if not math.isfinite(value) or value < 0:
        raise ProfileError(f"{key} is {value}; it must be finite and not negative.")
    return int(value)


def _pair(numbers: MetricRecord, key: str) -> tuple[float, float]:
    value = numbers[key]
    if not isinstance(value, list) or len(value) != 2:
        raise ProfileError(f"{key} is {value}; two numbers are needed.")
    if not all(map(math.isfinite, value)):
        raise ProfileError(f"{key} is {value}; finite numbers are needed.")
    return float(value[0]), float(value[1])


def device_text(text: object, *, most: int) -> str:
    """Return a device's text as one line of at most `most` characters.

    Unprintable characters become spaces: line feeds would forge lines in the server's log, and
    terminals would obey escape sequences.
    """
    return "".join(sign if sign.isprintable() else " " for sign in str(text)[:most])
