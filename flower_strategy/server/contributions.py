"""How a device's own adapter counts in its cluster's mean, now and in rounds without it."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

from flwr.app import ArrayRecord

from flower_strategy.adapters.adapter import AdapterError, AdapterState
from flower_strategy.adapters.mean import AdapterMean
from flower_strategy.adapters.stacking import is_zero, stacked
from flower_strategy.server.replies import Sent, TrainReply
from flower_strategy.server.round import Round, Steps
from flower_strategy.server.uploads import Upload, UploadError


def begun(
    steps: Steps, node: int, sent: Sent, reply: TrainReply, *, server_round: int
) -> Upload | None:
    """Return what is known of a device's own adapter once its reply is here.

    None stands for a device that keeps no state: it replies with all of its cluster's adapter.
    """
    if reply.began is None:
        return None
    known = steps.state.uploads.get(node)
    if known is not None and reply.began == known.began:
        upload = replace(known, missed=0)
    else:
        upload = Upload(began=server_round)
    return replace(
        upload,
        scaling=reply.adapter.scaling,
        move=upload.move + sent.move,
        highest_move=upload.highest_move + sent.highest_move,
        round=server_round,
        file="",
    )


def keep(
    steps: Steps, round: Round, node: int, upload: Upload, sent: Sent, arrays: ArrayRecord
) -> Upload:
    """Write an upload, and the adapter that it stands on; return it with the files' names.

    Without room on the disk the upload has no file, and counts in this round alone.

    Raises
    ------
    AdapterError
        There is no room for what it stands on either.
    """
    number = round.record.round
    if upload.began == number:
        upload = replace(upload, anchor=_anchor(steps, round, sent.cluster))
    name = f"round-{number:04d}-node-{node}-{uuid4().hex[:8]}"
    try:
        return replace(upload, file=steps.uploads.write(name, arrays))
    except UploadError as error:
        round.note(str(error))
        return upload


def _anchor(steps: Steps, round: Round, cluster: str) -> str:
    """Return the file with a cluster's adapter before this round; empty if that is nothing."""
    if cluster not in round.anchors:
        adapter = steps.state.cluster_adapters[cluster]
        name = f"round-{round.record.round:04d}-{cluster}-{uuid4().hex[:8]}"
        try:
            file = "" if is_zero(adapter) else steps.uploads.write(name, adapter.to_arrays())
        except UploadError as error:
            raise AdapterError(str(error)) from error
        round.anchors[cluster] = file
    return round.anchors[cluster]


def standing(steps: Steps, upload: Upload, own: AdapterState) -> AdapterState:
    """Return what a device stands for in the mean: its anchor and the share of its own.

    Raises
    ------
    AdapterError
        The anchor cannot be read.
    """
    if not upload.anchor:
        return own.scaled(upload.kept) if upload.kept < 1 else own
    try:
        anchor = steps.uploads.read(upload.anchor)
    except UploadError as error:
        raise AdapterError(str(error)) from error
    return stacked([(1.0, anchor), (upload.kept, own)])


def add_kept(steps: Steps, round: Round, cluster: str, mean: AdapterMean) -> set[int]:
    """Add what devices of a cluster have sent before and not in this round; return these devices.

    An upload counts until its device has missed ``keep-uploads`` rounds. A device that was not
    drawn has missed nothing. One whose files are gone is left out, with a note.
    """
    state, added = steps.state, set[int]()
    for node in _members(steps, cluster):
        upload = state.uploads.get(node)
        if upload is None or node in round.accepted:
            continue
        if upload.missed > steps.participation.keep_uploads:
            continue
        try:
            own = steps.uploads.read(upload.file, scaling=upload.scaling)
            counted = standing(steps, upload, own)
            mean.add(counted, weight=min(state.steps[node], round.most_steps))
        except (UploadError, AdapterError) as error:
            round.note(f"What node {node} sent before does not count: {error}")
            continue
        added.add(node)
    return added


def note_counted(steps: Steps, round: Round, cluster: str, kept: set[int]) -> None:
    """Note which upload of each device is in its cluster's adapter, which has just moved.

    Where none is any more, since the device has missed too many rounds, the last one that was stays
    named: the device takes it away when it is back, so that it begins at the cluster's adapter. Its
    next upload brings all of it again.

    Parameters
    ----------
    steps : Steps
    round : Round
    cluster : str
        The cluster.
    kept : set[int]
        Its devices that count with what they sent before.
    """
    uploads = steps.state.uploads
    for node in _members(steps, cluster):
        if node in uploads:
            upload = uploads[node]
            counts = node in round.accepted or node in kept
            uploads[node] = replace(upload, counted=upload.round if counts else upload.counted)


def _members(steps: Steps, cluster: str) -> tuple[int, ...]:
    return next(found.members for found in steps.state.clusters if found.name == cluster)


def count_misses(steps: Steps, round: Round) -> None:
    """Count a round as missed by devices that were away, or asked without a good reply."""
    uploads = steps.state.uploads
    for node in (round.absent | set(round.sent)) - round.accepted:
        if node in uploads:
            uploads[node] = uploads[node].after_a_miss()
