"""Remote shards through a local cache: fetched whole by fsspec, tried again with growing pauses, evicted when full."""

import hashlib
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import BinaryIO

from vlp.data.errors import DataError

TRIES = 5
PAUSE = 1.0  # seconds before the second try; doubled for each further one
COMMAND = "pipe:"


class ShardCache:
    """A folder of fetched shards that several processes share. Needs the optional extra `remote`.

    It may for a moment hold more than `limit` bytes: a shard is fetched before older ones make room.
    """

    def __init__(self, folder: Path, limit: int, allow_commands: bool) -> None:
        self.folder = folder
        self.limit = limit
        self.allow_commands = allow_commands
        folder.mkdir(parents=True, exist_ok=True)

    def check(self, url: str) -> None:
        """Raise DataError for a URL that would run a command which the config does not allow."""
        if url.startswith(COMMAND) and not self.allow_commands:
            raise DataError(
                f"{url!r} would run a command; data.allow_commands=true lets the URLs of data.train do that"
            )

    def open(self, url: str) -> BinaryIO:
        """The shard's bytes, fetched where they are not here. Raises DataError when every try has failed."""
        self.check(url)
        path = self._path(url, "tar")
        for _ in range(TRIES):
            try:
                file = open(path, "rb")  # noqa: SIM115 - the caller reads it; another process may evict its name
                os.utime(path)
                return file
            except FileNotFoundError:
                self._fetch(url, path)
        raise DataError(f"{self.folder} loses shards faster than they are read; raise data.cache_gigabytes")

    def _path(self, url: str, ending: str) -> Path:
        return self.folder / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.{ending}"

    def _fetch(self, url: str, path: Path) -> None:
        part = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
        for attempt in range(TRIES):
            try:
                self._copy(url, part)
                os.replace(part, path)
                self._evict(path)
                return
            except Exception as error:  # every protocol has errors of its own
                part.unlink(missing_ok=True)
                if attempt + 1 == TRIES or isinstance(error, (FileNotFoundError, ImportError)):
                    raise DataError(f"{url} cannot be fetched ({type(error).__name__}: {error})") from error
                time.sleep(PAUSE * 2**attempt)

    def _copy(self, url: str, part: Path) -> None:
        if url.startswith(COMMAND):
            with open(part, "wb") as file:
                subprocess.run(url.removeprefix(COMMAND), shell=True, stdout=file, check=True)
            return
        import fsspec

        fsspec.core.url_to_fs(url)[0].invalidate_cache()
        with fsspec.open(url, "rb", block_size=0) as source, open(part, "wb") as file:
            expected = getattr(source, "size", None)
            while block := source.read(1 << 20):
                file.write(block)
        if expected is not None and part.stat().st_size != expected:
            raise OSError(f"{part.stat().st_size} bytes came of {expected}")

    def _evict(self, fresh: Path) -> None:
        """Remove the shards that were used longest ago, the fresh one excepted, until the rest fit."""
        found = []
        for path in self.folder.glob("*.tar"):
            try:
                found.append((path.stat().st_mtime_ns, path.stat().st_size, path))
            except FileNotFoundError:  # another process was faster
                continue
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total > self.limit and path != fresh:
                path.unlink(missing_ok=True)
                total -= size

    def count(self, url: str) -> int | None:
        """How many samples the shard was found to hold, once it was read; kept when the shard is evicted."""
        try:
            return int(self._path(url, "count").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def remember(self, url: str, count: int) -> None:
        """Keep the number of a shard's samples, for resuming without fetching it."""
        part = self._path(url, f"{os.getpid()}-{threading.get_ident()}.part")
        part.write_text(str(count))
        os.replace(part, self._path(url, "count"))
