"""TensorBoard events of a run's records, so that they can be watched while it trains."""

import numbers
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2

# Made at run time by protobuf, so that no type checker sees them.
_Event: Any = vars(event_pb2)["Event"]
_SessionLog: Any = vars(event_pb2)["SessionLog"]
_Summary: Any = vars(summary_pb2)["Summary"]


class EventWriter:
    """Writes every number of a record as a scalar at the record's step: `test/accuracy`, ...

    It writes in the calling thread: tensorboardX's SummaryWriter has a queue that loses its last
    events when the process is killed, and blocks for ever when the disk is full.
    """

    def __init__(self, directory: str | os.PathLike[str], step: int):
        """Opens a new file of events in `directory`, which is made if missing.

        Args:
          directory: where TensorBoard looks; it may hold earlier files of the same run.
          step: where the run starts or resumes. Points after it, written before, are hidden.
        """
        Path(directory).mkdir(parents=True, exist_ok=True)
        # The suffix keeps a run that resumes within the same second from overwriting the file.
        prefix = os.path.join(directory, "events")
        self._writer = EventsWriter(prefix, filename_suffix=f".{time.time_ns()}")
        self._add(step + 1, session_log=_SessionLog(status=_SessionLog.START))

    def write(self, record: Mapping[str, Any]) -> None:
        """Writes a record's numbers, all but those of its config and environment."""
        groups = {k: v for k, v in record.items() if k not in ("config", "environment")}
        values = [_Summary.Value(tag=tag, simple_value=x) for tag, x in _numbers(groups)]
        self._add(record["step"], summary=_Summary(value=values))

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def _add(self, step: int, **content: Any) -> None:
        self._writer.write_event(_Event(step=step, wall_time=time.time(), **content))
        self._writer.flush()


def _numbers(groups: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yields ('test/accuracy', 0.97) and the like; what is in no group is no measurement."""
    for group, values in groups.items():
        if isinstance(values, Mapping):
            for name, value in values.items():
                if isinstance(value, numbers.Real) and not isinstance(value, bool):
                    yield f"{group}/{name}", float(value)
