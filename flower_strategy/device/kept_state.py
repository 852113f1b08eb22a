"""What a device keeps between rounds, in Flower's ``Context.state``.

A SuperNode holds that state in its memory and passes it to the ClientApp's process and back with
every message, in one message of gRPC: at most 2 GiB. It is gone when the SuperNode restarts, and in
a run that is started anew. A simulation keeps it in the process of its engine. A device without it
begins a new adapter on top of its cluster's, and the server is told so (`DeviceState.began`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from flower_strategy.adapters import int8
from flower_strategy.adapters.adapter import AdapterError, AdapterState, LayerShapes
from flower_strategy.adapters.mean import truncate
from flower_strategy.device.data_order import Place
from flower_strategy.device.training import Moments, Progress, TrainingOutcome

logger = logging.getLogger("flwr")

_STATE, _OWN, _FIRST, _SECOND, _COUNTED, _STORED, _LATEST = (
    f"floe-{name}" for name in ("state", "own", "first", "second", "counted", "stored", "latest")
)
_UPLOADS = (_COUNTED, _STORED, _LATEST)
_RECORDS = (_STATE, _OWN, _FIRST, _SECOND, *_UPLOADS)

MOST_BYTES = 1_900_000_000
"""Most bytes of arrays that are kept: the message has room for little more."""


@dataclass(frozen=True, eq=False)
class SentUpload:
    """What a device has sent in a round.

    Attributes
    ----------
    round : int
        The round.
    arrays : ArrayRecord
        Its own adapter, in eight bits.
    scaling : float
        The scaling that went with it.
    """

    round: int
    arrays: ArrayRecord
    scaling: float


@dataclass(frozen=True, eq=False, kw_only=True)
class DeviceState:
    """A device's own adapter, and what goes on with it.

    Attributes
    ----------
    run : str
        Name of the run.
    began : int
        The round in which the adapter began.
    steps : int
        Steps that it has been trained for.
    own : AdapterState
        The adapter, in float32.
    counted : SentUpload or None
        The upload that is in its cluster's adapter, as the server says; None if none is.
    stored : SentUpload or None
        The upload that the server has stored, where that is another one: it came in a round that
        did not move the cluster, and is in the next mean even if no later one arrives.
    latest : SentUpload or None
        The last one. Whether it arrived in time, and counts, the next message will tell. Of a state
        that is read again, None if it does not count.
    progress : Progress
        AdamW's moments, and the place in the order of the examples.
    """

    run: str
    began: int
    own: AdapterState
    steps: int = 0
    counted: SentUpload | None = None
    stored: SentUpload | None = None
    latest: SentUpload | None = None
    progress: Progress = field(default_factory=Progress)

    @property
    def sent(self) -> AdapterState | None:
        """The device's own part in its cluster's adapter; None if it has none."""
        if self.counted is None:
            return None
        return int8.decode(self.counted.arrays, scaling=self.counted.scaling)

    @property
    def is_all_sent(self) -> bool:
        """Whether the counted upload has all that the adapter has learned, but for its rounding."""
        return self.counted is not None and self.counted is self.latest

    def after(
        self, outcome: TrainingOutcome, upload: ArrayRecord, *, server_round: int
    ) -> DeviceState:
        """Return the state after a round's training, and its upload in eight bits."""
        return replace(
            self,
            own=outcome.adapter,
            steps=self.steps + outcome.steps,
            latest=SentUpload(server_round, upload, outcome.adapter.scaling),
            progress=outcome.progress,
        )

    def at(self, rank: int, scaling: float, *, initial: AdapterState) -> DeviceState:
        """Return the state at a rank and a scaling, with the same weight changes.

        A larger rank appends terms that have learned nothing, with ``a`` of `initial`. A smaller
        one keeps the best approximation; its factors are other ones, so the moments begin anew.
        """
        now = self.rescaled(scaling)
        if rank == now.own.rank:
            return now
        if rank > now.own.rank:
            moments = now.progress.moments
            if moments is not None:
                moments = replace(
                    moments, first=moments.first.resized(rank), second=moments.second.resized(rank)
                )
            own = now.own.resized(rank, fill=initial)
            return replace(now, own=own, progress=replace(now.progress, moments=moments))
        cut = truncate(now.own, rank).adapter.resized(rank, fill=initial).balanced(initial)
        return replace(
            now, own=cut.with_scaling(scaling), progress=replace(now.progress, moments=None)
        )

    def rescaled(self, scaling: float) -> DeviceState:
        """Return the state with another scaling; ``b`` and its moments compensate."""
        factor = self.own.scaling / scaling
        if factor == 1.0:
            return self
        moments = self.progress.moments
        if moments is not None:
            # B grows by the factor, so its gradient shrinks by it.
            moments = replace(
                moments,
                first=moments.first.scaled(1 / factor),
                second=moments.second.scaled(1 / factor**2),
            )
        own = self.own.with_scaling(scaling)
        return replace(self, own=own, progress=replace(self.progress, moments=moments))

    def save(self, records: RecordDict) -> None:
        """Write the state into a context's, in place of an earlier one.

        What would not fit into Flower's message is left out, with a warning: first the moments,
        then all of it.
        """
        forget(records)
        moments = self.progress.moments
        found = (self.counted, self.stored, self.latest)
        uploads = {
            name: upload for name, upload in zip(_UPLOADS, found, strict=True) if upload is not None
        }
        size = self.own.num_bytes + max(2, len(uploads)) * int8.encoded_bytes(self.own)
        if size > MOST_BYTES:
            logger.warning(
                "The adapter's %.1f GB do not fit into Flower's state of a device: it begins anew "
                "in every round.",
                size / 1e9,
            )
            return
        if moments is not None and size + 2 * self.own.num_bytes > MOST_BYTES:
            logger.warning("AdamW's moments do not fit into Flower's state of a device.")
            moments = None
        records[_OWN] = self.own.to_arrays()
        if moments is not None:
            records[_FIRST] = moments.first.to_arrays()
            records[_SECOND] = moments.second.to_arrays()
        place = self.progress.place
        values: dict[str, int | float] = {}
        for name, upload in uploads.items():
            records[name] = upload.arrays
            values |= {f"{name}-round": upload.round, f"{name}-scaling": upload.scaling}
        records[_STATE] = ConfigRecord(
            {
                **values,
                "run": self.run,
                "began": self.began,
                "steps": self.steps,
                "scaling": self.own.scaling,
                "moment-steps": moments.steps if moments is not None else 0,
                "passes": place.passes,
                "used": place.used,
            }
        )


def load_state(
    records: RecordDict, *, run: str, began: int, counted: int, shapes: LayerShapes, stored: int = 0
) -> DeviceState | None:
    """Return what the device keeps of a run; None if it keeps none that the server can go on with.

    Parameters
    ----------
    records : RecordDict
        The context's state.
    run : str
        Name of the run.
    began : int
        The round in which the device's adapter began, as far as the server knows.
    counted : int
        The round of its upload that is in its cluster's adapter; 0 for none.
    shapes : LayerShapes
        Layers of the adapters.
    stored : int (default: 0)
        The round of its upload that the server has stored; 0 for none. What it sent in other rounds
        is lost to the cluster.
    """
    values = records.config_records.get(_STATE)
    if values is None or values["run"] != run or values["began"] != began:
        return None
    arrays = records.array_records

    found = latest = next_one = None
    for name in _UPLOADS:
        if name not in arrays:
            continue
        number, scaling = (values[f"{name}-{key}"] for key in ("round", "scaling"))
        upload = SentUpload(cast(int, number), arrays[name], float(cast(float, scaling)))
        if number == counted:
            found = upload
            latest = found if name == _LATEST else None
        elif number == stored:
            next_one = upload
    if counted and found is None:
        # The server has gone back further than the device remembers.
        return None

    def adapter(name: str, scaling: float = 1.0) -> AdapterState | None:
        return AdapterState.from_arrays(arrays[name], scaling=scaling) if name in arrays else None

    count = {key: cast(int, values[key]) for key in ("steps", "moment-steps", "passes", "used")}
    try:
        own = adapter(_OWN, float(cast(float, values["scaling"])))
        first, second = adapter(_FIRST), adapter(_SECOND)
    except AdapterError as error:
        logger.warning("The device's state cannot be read, and begins anew: %s", error)
        return None
    if own is None or own.shapes != dict(shapes):
        return None
    moments = None
    if first is not None and second is not None:
        moments = Moments(first, second, count["moment-steps"])
    return DeviceState(
        run=run,
        began=began,
        steps=count["steps"],
        own=own,
        counted=found,
        stored=next_one,
        latest=latest,
        progress=Progress(Place(count["passes"], count["used"]), moments),
    )


def forget(records: RecordDict) -> None:
    """Remove what a device keeps."""
    for name in _RECORDS:
        records.pop(name, None)
