"""SIGTERM, SIGINT and SIGUSR1 as a wish to stop: the step is finished, a checkpoint written, the process ends with 75.

75 is EX_TEMPFAIL of sysexits.h, "try again later": a job script that sees it may queue the same command again with
--resume. A second SIGINT interrupts at once.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 75
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Stopped(SystemExit):
    """The run was asked to stop, has saved its state and ends with exit code 75."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


class Interrupted(Exception):  # noqa: N818 (a wish, not an error)
    """A wish to stop that came while something ran that need not be finished."""


class StopSignals:
    """While entered, remembers the first of `SIGNALS`. Outside the main thread it hears none."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._hurry = False

    def __enter__(self) -> "StopSignals":
        main = threading.current_thread() is threading.main_thread()
        self._before = {number: signal.signal(number, self._hear) for number in SIGNALS} if main else {}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.received is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number)
        if self._hurry:
            raise Interrupted

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A signal ends what runs here by Interrupted, and so does one that came before."""
        if self.received:
            raise Interrupted
        self._hurry = True
        try:
            yield
        finally:
            self._hurry = False


@contextmanager
def held_back() -> Iterator[None]:
    """Processes started here never hear the signals: a reading process must not die of one that was sent to the whole
    process group while the run still finishes its step. For this process none is lost: they wait, or another thread
    takes them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
