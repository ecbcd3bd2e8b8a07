"""Pictures to search in: a folder of files, or a folder of shards. Both name, stamp and read a picture by number."""

import os
from pathlib import Path

from torch import Tensor

from vlp.data.errors import BadSampleError
from vlp.data.images import decode
from vlp.data.shards import INDEX, PICTURES, ShardFolder
from vlp.retrieval.errors import SearchError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


class PictureFolder:
    """Picture files below a folder, by relative path, sorted. Hidden files and folders are passed over."""

    def __init__(self, folder: Path, leave_out: Path | None = None) -> None:
        self.folder = folder
        left_out = leave_out and leave_out.resolve()
        found = (Path(parent, file) for parent, _, files in os.walk(folder) for file in files)
        pictures = (path.relative_to(folder) for path in found if path.suffix.lower() in SUFFIXES and path.is_file())
        visible = (path for path in pictures if not any(part.startswith(".") for part in path.parts))
        self.names = sorted(str(path) for path in visible if (folder / path).resolve() != left_out)

    def stamp(self, number: int) -> str:
        """Name, time and size: equal stamps mean an unchanged picture."""
        found = (self.folder / self.names[number]).stat()
        return f"{self.names[number]} {found.st_mtime_ns} {found.st_size}"

    def read(self, number: int) -> Tensor:
        """(3, height, width) uint8. Raises ValueError or OSError where it cannot be read."""
        return decode((self.folder / self.names[number]).read_bytes())


class ShardPictures:
    """Pictures of a shard folder, by key, in the folder's order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards = ShardFolder(folder)
        places = [self.shards.locate(i) for i in range(self.shards.num_samples)]
        self.names = [self.shards.key(*place) for place in places]

    def stamp(self, number: int) -> str:
        """The shard's checksum and the row in it."""
        shard, row = self.shards.locate(number)
        return f"{self.shards.shards[shard]['sha256']} {row}"

    def read(self, number: int) -> Tensor:
        """(3, height, width) uint8. Raises ValueError where it cannot be read."""
        shard, row = self.shards.locate(number)
        for kind in PICTURES:
            data = self.shards.read(shard, row, kind)
            if data is not None:
                return decode(data)
        raise BadSampleError("no picture", self.shards.name(shard, row))


Pictures = PictureFolder | ShardPictures


def open_pictures(folder: Path, leave_out: Path | None = None) -> Pictures:
    """The pictures of a folder, `leave_out` excepted. Raises SearchError for one without any."""
    if not folder.is_dir():
        raise SearchError(f"{folder} is no folder; --images takes a folder of pictures or of shards")
    if (folder / INDEX).is_file():
        return ShardPictures(folder)
    pictures = PictureFolder(folder, leave_out)
    if not pictures.names:
        raise SearchError(f"{folder} holds no pictures ({', '.join(sorted(SUFFIXES))})")
    return pictures
