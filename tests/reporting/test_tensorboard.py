"""Events are on the disk when written, and a resumed run hides the points it writes again."""

import struct
from pathlib import Path

import numpy as np
from tensorboardX.proto import event_pb2

from xent_jax.reporting.tensorboard import EventWriter


def events(directory: Path):
    """Yields all events in the order in which TensorBoard reads them."""
    for path in sorted(directory.iterdir()):
        data = path.read_bytes()
        while data:  # of each: length, its checksum, the event, its checksum
            (length,) = struct.unpack("<Q", data[:8])
            yield event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def shown(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: a session's start hides all earlier points from its step on."""
    points: dict[str, list[tuple[int, float]]] = {}
    for event in events(directory):
        if event.HasField("session_log"):
            points = {tag: [p for p in ps if p[0] < event.step] for tag, ps in points.items()}
        for value in event.summary.value:
            points.setdefault(value.tag, []).append((event.step, value.simple_value))
    return points


def record(step: int) -> dict:
    return {
        "run": "a",
        "epoch": step,
        "step": step,
        "test": {"accuracy": step / 8, "confusion_matrix": [[1]], "name": "x", "flag": True},
        "train": {"loss": np.float32(0.5), "examples": 3},
        "config": {"learning_rate": 0.1},
        "environment": {"count": 8},
    }


def test_numbers_are_written_at_once(tmp_path):
    writer = EventWriter(tmp_path / "run" / "events", 0)
    writer.write(record(4))
    assert shown(tmp_path / "run" / "events") == {
        "test/accuracy": [(4, 0.5)],
        "train/loss": [(4, 0.5)],
        "train/examples": [(4, 3.0)],
    }
    writer.close()


def test_a_resumed_run_shows_each_step_once(tmp_path):
    for start, steps in ((0, (1, 2, 3)), (2, (3, 4)), (0, (1, 2))):
        writer = EventWriter(tmp_path, start)
        for step in steps:
            writer.write(record(step))
        writer.close()
        told = [step for step, _ in shown(tmp_path)["test/accuracy"]]
        assert told == list(range(1, steps[-1] + 1))
    assert len(list(tmp_path.iterdir())) == 3
