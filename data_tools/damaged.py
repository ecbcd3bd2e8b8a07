"""A shard folder opened although shards of it are missing or cut."""

from pathlib import Path

from vlp.data.errors import BadSampleError
from vlp.data.open_shard import Table, read_table
from vlp.data.shards import ShardFolder


class DamagedShards(ShardFolder):
    """Reads what is there: a sample in a missing or a cut shard is a bad sample, and the others are read as always."""

    def __init__(self, folder: Path | str) -> None:
        super().__init__(folder, damaged_ok=True)

    def table(self, shard: int) -> Table:
        """The member table of a shard. Raises DataError where it cannot be read."""
        return read_table(self._path(shard), self.shards[shard], self.columns)

    def key(self, shard: int, row: int) -> str:
        """As ShardFolder; empty where the header cannot be read."""
        try:
            return super().key(shard, row)
        except BadSampleError:
            return ""
