"""Remote shards over a real HTTP server: the same samples, retries, a bounded cache, resume, damage, no commands."""

import io
import json
import shlex
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.data.conftest import WORDS, jpeg, record
from vlp.data import fetch
from vlp.data.config import DataConfig
from vlp.data.errors import DataError
from vlp.data.scan import scan
from vlp.data.stream import expand
from vlp.data.stream_loader import StreamLoader
from vlp.data.tokenizer import SPECIALS, Tokenizer

Make = Callable[..., Path]


class Server:
    """Serves a folder; `failing` names answer 503 so many times, and every request is counted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: Counter[str] = Counter()
        self.failing: Counter[str] = Counter()
        server = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:  # noqa: N802
                name = self.path.rpartition("/")[2]
                server.asked[name] += 1
                if server.failing[name]:
                    server.failing[name] -= 1
                    self.send_error(503)
                else:
                    super().do_GET()

            def log_message(self, *arguments: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/{name}"


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Three shards of four samples: two as img2dataset writes them, one as we do."""
    folder = tmp_path / "served"
    folder.mkdir()
    for shard in range(3):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for row in range(4):
                number = 4 * shard + row
                add(tar, f"{number:09d}.jpg", jpeg(number))
                if shard < 2:
                    add(tar, f"{number:09d}.json", json.dumps({"caption": "not this", "sha256": "?"}).encode())
                    add(tar, f"{number:09d}.txt", f"a dog {WORDS[number % 5]}".encode())
                else:
                    add(tar, f"{number:09d}.json", record(number, ["a dog"]))
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIALS, *WORDS]))
    monkeypatch.setattr(fetch, "PAUSE", 0.01)
    found = Server(folder)
    yield found
    found.http.shutdown()
    found.http.server_close()


def loader(server: Server, rank: int = 0, world: int = 1, accumulate: int = 1, **data: Any) -> StreamLoader:
    settings = {
        "train": server.url("{00000..00002}.tar"),
        "cache": str(server.folder.parent / "cache"),
        "image_size": 16,
        "batch_size": 6,
        "crop_scale": (0.5, 1.0),
        "flip": True,
    }
    words = Tokenizer.from_folder(server.folder.parent)
    return StreamLoader(DataConfig(**(settings | data)), words, rank=rank, world=world, seed=3, accumulate=accumulate)


def keys(stream: StreamLoader, start: int, count: int) -> list[list[str]]:
    return [batch.keys for batch in islice(stream.batches(start), count)]


def test_an_epoch_holds_every_sample_once_and_epochs_differ(server: Server) -> None:
    read = keys(loader(server), 0, 6)
    epochs = [[key for batch in read[i : i + 2] for key in batch] for i in (0, 2, 4)]
    assert all(sorted(epoch) == [f"{i:09d}" for i in range(12)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert server.asked.total() == 3  # the cache holds them


def test_texts_beside_pictures_are_captions(server: Server) -> None:
    batches = list(islice(loader(server).batches(0), 2))
    words = Tokenizer.from_folder(server.folder.parent)
    told = {k: words.decode(i.tolist()) for b in batches for k, i in zip(b.keys, b.text_ids, strict=True)}
    assert told["000000003"].startswith(f"a dog {WORDS[3]}")
    assert len({i for b in batches for i in b.image_id.tolist()}) == 12


@pytest.mark.parametrize(("world", "workers", "accumulate"), [(1, 0, 1), (1, 2, 1), (3, 0, 2)])
def test_resume_with_the_same_ranks_and_workers_is_exact(
    server: Server, world: int, workers: int, accumulate: int
) -> None:
    for rank in range(world):
        settings = {"rank": rank, "world": world, "accumulate": accumulate, "workers": workers}
        unbroken = keys(loader(server, **settings), 0, 7 * accumulate)
        assert keys(loader(server, **settings), 3, 4 * accumulate) == unbroken[3 * accumulate :]


def test_resume_passes_over_what_it_knows_without_fetching(server: Server) -> None:
    unbroken = keys(loader(server), 0, 8)
    for shard in (server.folder.parent / "cache").glob("*.tar"):
        shard.unlink()
    server.asked.clear()
    assert keys(loader(server), 7, 1) == unbroken[7:]
    assert server.asked.total() <= 3  # what is shown, and what is prefetched; not the eleven shards before


def test_ranks_share_an_epoch(server: Server) -> None:
    read = [key for rank in range(3) for batch in keys(loader(server, rank=rank, world=3), 0, 2) for key in batch]
    assert sorted(read) == [f"{i:09d}" for i in range(12)]


def test_a_server_that_stumbles_is_asked_again(server: Server) -> None:
    server.failing["00001.tar"] = fetch.TRIES - 1
    assert len({key for batch in keys(loader(server), 0, 2) for key in batch}) == 12
    assert server.asked["00001.tar"] == fetch.TRIES


def test_a_shard_that_cannot_be_had_is_counted_and_the_rest_is_read(server: Server) -> None:
    (server.folder / "00001.tar").unlink()
    stream = loader(server)
    read = {key for batch in keys(stream, 0, 4) for key in batch}
    assert read == {f"{i:09d}" for i in range(12) if i // 4 != 1}
    assert set(stream.report()) == {"shard unreachable"}


def test_the_cache_keeps_its_size(server: Server) -> None:
    size = (server.folder / "00000.tar").stat().st_size
    stream = loader(server, cache_gigabytes=2.5 * size / 1e9)
    assert len({key for batch in keys(stream, 0, 8) for key in batch}) == 12
    held = list((server.folder.parent / "cache").glob("*.tar"))
    assert 1 <= len(held) <= 2
    assert not list((server.folder.parent / "cache").glob("*.part"))
    assert server.asked.total() > 3  # what made room is fetched again


def test_damage_costs_the_members_that_it_hits(server: Server) -> None:
    path = server.folder / "00000.tar"
    with tarfile.open(path) as tar:
        places = {member.name: member.offset for member in tar.getmembers()}
    data = bytearray(path.read_bytes())
    data[places["000000001.jpg"] + 150] ^= 0x04  # a header: a tar reader would end here
    path.write_bytes(data)
    cut = server.folder / "00001.tar"
    with tarfile.open(cut) as tar:
        end = next(member.offset_data + 10 for member in tar.getmembers() if member.name == "000000006.jpg")
    cut.write_bytes(cut.read_bytes()[:end])
    stream = loader(server, max_bad_share=1.0)
    read = {key for batch in keys(stream, 0, 4) for key in batch}
    assert read == {f"{i:09d}" for i in range(12)} - {"000000001", "000000006", "000000007"}
    assert set(stream.report()) == {"damaged tar header", "no picture", "shard truncated"}


def test_hostile_members_are_names_and_nothing_more(tmp_path: Path) -> None:
    path = tmp_path / "one.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("../../up.jpg", "a.jpg", "a.txt", "a.jpg", "a.pyd", "a.pickle", "b/a.jpg", "/etc/c.txt"):
            add(tar, name, b"x")
        link = tarfile.TarInfo("d.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with open(path, "rb") as file:
        found = scan(file)
    assert {key: set(members) for key, members in found.samples.items()} == {
        "../../up": {"jpg"},
        "a": {"jpg", "txt"},
        "b/a": {"jpg"},
        "/etc/c": {"txt"},
    }
    assert found.bad == [("duplicate key", "a")]


def test_a_command_runs_only_where_the_config_allows_it(server: Server) -> None:
    mark, shard = server.folder.parent / "mark", server.folder / "00000.tar"
    command = f"pipe:touch {shlex.quote(str(mark))}; cat {shlex.quote(str(shard))}"
    with pytest.raises(DataError, match=r"would run a command; data\.allow_commands=true"):
        loader(server, train=command)
    assert not mark.exists()
    assert len(set(keys(loader(server, train=command, batch_size=4, allow_commands=True), 0, 1)[0])) == 4
    assert mark.exists()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"cache": ""}, r"data\.cache is not set"),
        ({"captions": 5}, "captions, block and length_group needs indexed, local shards"),
        ({"use_regions": True}, r"data\.use_regions needs indexed"),
        ({"batch_size": 7}, "does not divide by 2 ranks"),
        ({"train": {"http://a/1.tar": 1, "http://a/2.tar": 2}}, "no weights"),
        ({"train": {"http://a/1.tar": 1, "local": 1}}, "names local beside URLs"),
    ],
)
def test_what_a_stream_cannot_keep_is_an_error(server: Server, data: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        loader(server, world=2, **data)


def test_numbers_in_braces_are_counted_out() -> None:
    assert expand("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand("{0..1}/{1..2}") == ["0/1", "0/2", "1/1", "1/2"]
    assert expand("plain.tar") == ["plain.tar"]
