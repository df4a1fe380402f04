"""Writes the records of runs for TensorBoard: one event file for each run, made from its folder alone.

Nothing keeps account of what was written: a process could be killed between writing and noting it, and a resumed run
replaces the records after its checkpoint. Instead, the whole content is computed from the folder each time and compared
with the file. Mostly the file is its beginning, perhaps torn, and the rest is appended; otherwise it is overwritten.
This happens in place, since a running TensorBoard would keep reading the old file if another were renamed over it.
"""

import io
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from .._errors import WriteError

try:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams import metadata as hparams
    from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
    from tensorboard.summary.writer.record_writer import RecordWriter
except ImportError as error:
    raise ImportError(
        f"tensorboard needs TensorBoard, which is not installed ({error}): pip install 'neurocollapse[track]'"
    ) from error

from ..training import Record
from .folder import RunFolder

#: Always the same name, so that a run has one file. TensorBoard reads files with "tfevents" in their names.
FILE = "events.out.tfevents.neurocollapse"

#: Where the wall time of a file's first event is: after the length, a checksum and the number of the field.
_WALL_TIME = struct.Struct("<13xd")


def track(folder: RunFolder, logdir: Path) -> None:
    """Updates the event file in `logdir`/<run-id>/ from the run's folder, if the run has started.

    A record's step is its epoch. Its wall time is the moment when the run was first tracked plus the seconds in
    timings.jsonl, so that TensorBoard's relative time is time at work. Raises `WriteError`, and `RunError` if the run
    is damaged.
    """
    if not folder.started:
        return
    folder.check_whole()
    path = logdir / folder.path.absolute().name / FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        with path.open("r+b") as file:
            written = file.read()
            wanted = _file(folder, written)
            if not wanted.startswith(written):  # records were removed, or recomputed with other values
                file.seek(0)
                file.truncate()
                written = b""
            file.write(wanted[len(written) :])
    except OSError as error:
        raise WriteError(path, error) from error


def scalars(record: Record) -> Iterator[tuple[str, float]]:
    """Yields the numbers of a record that TensorBoard draws, with `weight_norms` layer by layer.

    >>> dict(scalars({"epoch": 4, "train.nc1": 0.5, "train.weight_norms": [2.0, 3.0], "train.class_counts": [9, 9]}))
    {'train.nc1': 0.5, 'train.weight_norms/0': 2.0, 'train.weight_norms/1': 3.0}
    """
    for key, value in record.items():
        if key.endswith("weight_norms"):
            yield from ((f"{key}/{layer}", norm) for layer, norm in enumerate(value))
        elif isinstance(value, int | float) and key != "epoch":  # the epoch is the step
            yield key, value


def _file(folder: RunFolder, written: bytes) -> bytes:
    """Returns the whole event file of a run, with the start time of the one that is already `written`."""
    stream = io.BytesIO()
    writer = RecordWriter(stream)
    for event in _events(folder, written):
        writer.write(event.SerializeToString(deterministic=True))
    return stream.getvalue()


def _events(folder: RunFolder, written: bytes) -> Iterator[Event]:
    result, records = folder.result, folder.records()  # in this order: after a result no record follows
    elapsed, total = {}, 0.0
    for line in folder.timings():
        total += line["train"] + line["measure"]
        elapsed[line["epoch"]] = total
    kept = _WALL_TIME.unpack_from(written)[0] if len(written) >= _WALL_TIME.size else 0.0
    start = kept or time.time() - total

    yield Event(wall_time=start, file_version="brain.Event:2")
    started = SessionStartInfo(start_time_secs=start)
    for name, value in folder.description["config"].items():
        if isinstance(value, str):
            started.hparams[name].string_value = value
        elif value is not None:
            started.hparams[name].number_value = value
    yield Event(wall_time=start, summary=_session(hparams.SESSION_START_INFO_TAG, session_start_info=started))
    for record in records:
        moment = start + elapsed.get(record["epoch"], total)
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(record)]
        yield Event(wall_time=moment, step=record["epoch"], summary=Summary(value=values))
    if result is not None:
        status = STATUS_SUCCESS if result["status"] == "finished" else STATUS_FAILURE
        ended = SessionEndInfo(status=status, end_time_secs=start + total)
        yield Event(wall_time=start + total, summary=_session(hparams.SESSION_END_INFO_TAG, session_end_info=ended))


def _session(tag: str, **info: SessionStartInfo | SessionEndInfo) -> Summary:
    """Returns an entry for TensorBoard's table of hyperparameters."""
    content = HParamsPluginData(**info).SerializeToString(deterministic=True)
    plugin = SummaryMetadata.PluginData(plugin_name=hparams.PLUGIN_NAME, content=content)
    value = Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin), tensor=hparams.NULL_TENSOR)
    return Summary(value=[value])
