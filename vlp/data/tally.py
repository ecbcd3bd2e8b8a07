"""Bad samples of a run: counted by cause, logged with their place, and the run stopped when they are too many."""

import logging
from collections import Counter

from vlp.data.errors import BadSampleError, DataError

log = logging.getLogger(__name__)
FEW = 10  # bad samples that are never too many: in a short run one picture is already a large share


class Tally:
    """`seen` samples, the `bad` among them by cause, and those of them that were `met` unforeseen, of one of `ranks`.

    One rank judges itself with every batch. Of several each has its own share, and one that alone meets a bad shard
    would stop a run that is well: there the run sums `met` and `seen` over them and has the sums judged on all.
    """

    def __init__(self, max_share: float, ranks: int = 1) -> None:
        self.max_share = max_share
        self.ranks = ranks
        self.seen = 0
        self.bad: Counter[str] = Counter()
        self.met = 0  # without those that were foreseen, which were named and judged before the run
        self.last = "none on this rank"

    def add(self, rows: int, bad: list[BadSampleError]) -> None:
        """Count a batch. Raises DataError when this is the only rank and the share of bad samples passes the limit."""
        self.seen += rows
        for error in bad:
            self.bad[error.cause] += 1
            self.met += not error.foreseen
            self.last = str(error)
            log.log(logging.DEBUG if error.foreseen else logging.WARNING, "skipped %s", error)
        if self.ranks == 1:
            self.judge(self.met, self.seen)

    def judge(self, met: int, seen: int) -> None:
        """Raise DataError when so many of the samples that all ranks have seen are too many."""
        if met > max(FEW, self.max_share * seen):
            where = f" on {self.ranks} ranks" if self.ranks > 1 else ""
            raise DataError(
                f"{met} of {seen} samples were bad{where} ({dict(self.bad)}), the last: {self.last}; "
                "mend the shards, or raise data.max_bad_share"
            )
