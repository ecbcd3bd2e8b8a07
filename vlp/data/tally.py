"""Bad samples of a run: counted by cause, logged with their place, and the run stopped when they are too many."""

import logging
from collections import Counter

from vlp.data.errors import BadSampleError, DataError

log = logging.getLogger(__name__)
FEW = 10  # bad samples that are never too many: in a short run one picture is already a large share


class Tally:
    """`seen` samples, and the `bad` among them by cause."""

    def __init__(self, max_share: float) -> None:
        self.max_share = max_share
        self.seen = 0
        self.bad: Counter[str] = Counter()
        self._met = 0  # those that were not counted, named and judged before the run

    def add(self, rows: int, bad: list[BadSampleError]) -> None:
        """Count a batch. Raises DataError when the share of bad samples passes the limit."""
        self.seen += rows
        for error in bad:
            self.bad[error.cause] += 1
            self._met += not error.foreseen
            log.log(logging.DEBUG if error.foreseen else logging.WARNING, "skipped %s", error)
        if bad and self._met > max(FEW, self.max_share * self.seen):
            raise DataError(
                f"{self._met} of {self.seen} samples were bad ({dict(self.bad)}), the last: {bad[-1]}; "
                "mend the shards, or raise data.max_bad_share"
            )
