"""A shard folder opened although shards of it are missing or cut."""

from typing import Any

from vlp.data.errors import BadSampleError
from vlp.data.shards import ShardFolder


class DamagedShards(ShardFolder):
    """Reads what is there: a sample in a missing or a cut shard is a bad sample, and the others are read as always."""

    def _check_shard(self, shard: dict[str, Any]) -> None:
        """Sizes are for the check to name."""

    def read(self, shard: int, row: int, suffix: str) -> bytes | None:
        """As ShardFolder. Raises BadSampleError for a missing file too."""
        try:
            return super().read(shard, row, suffix)
        except OSError as error:
            name = f"{self.folder / self.file_of(shard, suffix)}: row {row}"
            raise BadSampleError("shard missing", name, error.strerror or str(error)) from error

    def key(self, shard: int, row: int) -> str:
        """As ShardFolder; empty where the header cannot be read."""
        try:
            return super().key(shard, row)
        except OSError:
            return ""
