"""Checkpoints written at once, or in a thread from a copy of the state while the training goes on."""

import copy
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vlp.engine import checkpoint
from vlp.engine.retention import Retention
from vlp.engine.tensors import CheckpointError, Frozen, freeze


class CheckpointWriter:
    """Writes a run's checkpoints, one at a time. What is written is the state at the call of `save`, in both forms.

    Asynchronous: the stall is one copy of the tensors, whose memory (once the checkpoint's size, on the CPU) is kept
    for the next. Call `wait` before the process ends.
    """

    def __init__(self, run: Path, retention: Retention, *, asynchronous: bool = False) -> None:
        self.run = run
        self.retention = retention
        self.asynchronous = asynchronous
        self._frozen: dict[str, Frozen] = {}
        self._thread: threading.Thread | None = None
        self._error: CheckpointError | None = None

    def save(
        self,
        step: int,
        *,
        tensors: Mapping[str, Mapping[str, Tensor]],
        files: Mapping[str, bytes],
        state: Mapping[str, Any],
    ) -> None:
        """Write a checkpoint. Raises CheckpointError when it, or the one before, could not be written."""
        self.wait()
        if not self.asynchronous:
            checkpoint.save(self.run, step, tensors=tensors, files=files, state=state, retention=self.retention)
            return
        self._frozen = {name: freeze(named, self._frozen.get(name)) for name, named in tensors.items()}
        arguments = (step, self._frozen, dict(files), copy.deepcopy(dict(state)))
        # No daemon: an interpreter that ends waits for the write.
        self._thread = threading.Thread(target=self._write, args=arguments, name="checkpoint writer")
        self._thread.start()

    def _write(self, step: int, frozen: dict[str, Frozen], files: dict[str, bytes], state: dict[str, Any]) -> None:
        try:
            checkpoint.save(self.run, step, tensors=frozen, files=files, state=state, retention=self.retention)
        except CheckpointError as error:
            self._error = error

    def wait(self) -> None:
        """Return once the last checkpoint is on disk. Raises CheckpointError when it could not be written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
