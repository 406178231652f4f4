"""A stop asked for by a signal, honoured where the run can be saved."""

import os
import signal
import threading
from types import FrameType, TracebackType

import jax
import numpy as np


class StopRequest:
    """Within its context SIGTERM and SIGINT ask for a stop; a second SIGINT ends at once."""

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> "StopRequest":
        # Python lets only the main thread set handlers; elsewhere the signals keep theirs.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Returns whether this process was asked to stop; no device is touched to know that."""
        return self._asked

    def requested(self) -> bool:
        """Returns whether any process was asked to stop; every process must call it together."""
        if jax.process_count() == 1:
            return self._asked
        from jax.experimental import multihost_utils

        return bool(multihost_utils.process_allgather(np.asarray(self._asked)).any())

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True
        # Not print: the signal may have come in the middle of one.
        os.write(2, f"\n{signal.Signals(number).name}: saving, then stopping\n".encode())
