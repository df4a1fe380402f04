"""The records of runs as TensorBoard shows them: an event file for each run, nothing but what its folder says.

No account is kept of what was written: a kill could fall between writing and noting it, and a run that goes on cuts the
records past its checkpoint and makes them again. Instead the file is composed anew from the folder each time, and
compared with what is there. Mostly that is its beginning, perhaps torn, and gets the rest; else it is written anew. In
place: a TensorBoard that looks on would go on reading the old file if another were renamed over it.
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

#: Always the same, so that there is one for a run. TensorBoard reads files with "tfevents" in their names.
FILE = "events.out.tfevents.neurocollapse"

#: The wall time of a file's first event: before it come the length, a checksum and the number of the field.
_WALL_TIME = struct.Struct("<13xd")


def track(folder: RunFolder, logdir: Path) -> None:
    """Bring the event file in `logdir`/<run-id>/ up to what the run's folder holds, if there is anything of a run.

    A record's step is its epoch. Its wall time counts on from the moment when the run was first tracked, by the seconds
    in timings.jsonl, so that TensorBoard's relative time is time at work. Raises `WriteError`, and `RunError` where
    the run is damaged.
    """
    if not folder.begun:
        return
    folder.check_whole()
    path = logdir / folder.path.absolute().name / FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        with path.open("r+b") as file:
            written = file.read()
            wanted = _file(folder, written)
            if not wanted.startswith(written):  # records were cut, or made again and came out otherwise
                file.seek(0)
                file.truncate()
                written = b""
            file.write(wanted[len(written) :])
    except OSError as error:
        raise WriteError(path, error) from error


def scalars(record: Record) -> Iterator[tuple[str, float]]:
    """What TensorBoard draws of a record: its numbers, and `weight_norms` layer by layer.

    >>> dict(scalars({"epoch": 4, "train.nc1": 0.5, "train.weight_norms": [2.0, 3.0], "train.class_counts": [9, 9]}))
    {'train.nc1': 0.5, 'train.weight_norms/0': 2.0, 'train.weight_norms/1': 3.0}
    """
    for key, value in record.items():
        if key.endswith("weight_norms"):
            yield from ((f"{key}/{layer}", norm) for layer, norm in enumerate(value))
        elif isinstance(value, int | float) and key != "epoch":  # which is the step
            yield key, value


def _file(folder: RunFolder, written: bytes) -> bytes:
    """The whole event file of a run, begun when the one that is `written` was."""
    stream = io.BytesIO()
    writer = RecordWriter(stream)
    for event in _events(folder, written):
        writer.write(event.SerializeToString(deterministic=True))
    return stream.getvalue()


def _events(folder: RunFolder, written: bytes) -> Iterator[Event]:
    result, records = folder.result, folder.records()  # in this order: once there is a result, no record is to come
    elapsed, total = {}, 0.0
    for line in folder.timings():
        total += line["train"] + line["measure"]
        elapsed[line["epoch"]] = total
    kept = _WALL_TIME.unpack_from(written)[0] if len(written) >= _WALL_TIME.size else 0.0
    start = kept or time.time() - total

    yield Event(wall_time=start, file_version="brain.Event:2")
    begun = SessionStartInfo(start_time_secs=start)
    for name, value in folder.description["config"].items():
        if isinstance(value, str):
            begun.hparams[name].string_value = value
        elif value is not None:
            begun.hparams[name].number_value = value
    yield Event(wall_time=start, summary=_session(hparams.SESSION_START_INFO_TAG, session_start_info=begun))
    for record in records:
        moment = start + elapsed.get(record["epoch"], total)
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(record)]
        yield Event(wall_time=moment, step=record["epoch"], summary=Summary(value=values))
    if result is not None:
        status = STATUS_SUCCESS if result["status"] == "finished" else STATUS_FAILURE
        ended = SessionEndInfo(status=status, end_time_secs=start + total)
        yield Event(wall_time=start + total, summary=_session(hparams.SESSION_END_INFO_TAG, session_end_info=ended))


def _session(tag: str, **info: SessionStartInfo | SessionEndInfo) -> Summary:
    """For TensorBoard's table of hyperparameters."""
    content = HParamsPluginData(**info).SerializeToString(deterministic=True)
    plugin = SummaryMetadata.PluginData(plugin_name=hparams.PLUGIN_NAME, content=content)
    value = Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin), tensor=hparams.NULL_TENSOR)
    return Summary(value=[value])
