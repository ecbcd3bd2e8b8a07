"""Search: the right picture for a sentence, by a model whose weights are set so that the answer is known."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vlp
from tests import parts
from tests.interop.conftest import save
from tests.small_run import SPECIALS, small_config
from vlp import cli
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.data.shards import ShardWriter
from vlp.data.tokenizer import Tokenizer
from vlp.interop.folder import export
from vlp.loading import RetrievalModel
from vlp.model import VLModel
from vlp.pooling.tokens import MeanPool
from vlp.reasoning.adapter import TokenAdapter
from vlp.retrieval.cache import EmbeddingCache
from vlp.retrieval.config import EvaluationConfig
from vlp.retrieval.errors import SearchError
from vlp.retrieval.find import find
from vlp.retrieval.pictures import PictureFolder, open_pictures
from vlp.retrieval.sheet import draw_sheet, wrap
from vlp.similarity.cosine import CosineSimilarity
from vlp.similarity.token_pairs import TokenSimilarity
from vlp.similarity.word_attention import WordAttention
from vlp.text.bert import BertText
from vlp.vision.patches import LinearPatches

COLOURS = {"red": (230, 20, 20), "green": (20, 230, 20), "blue": (20, 20, 230)}


def colour_model(folder: Path) -> RetrievalModel:
    """Pictures become their mean colour; the words red, green and blue become that colour; other words nothing."""
    words = [*SPECIALS, *COLOURS, "a", "picture"]
    (folder / "vocab.txt").write_text("\n".join(words))
    model = VLModel(
        vision=LinearPatches(image_size=16, patch=8, width=3),
        text=BertText(vocab_size=len(words), width=3, layers=0, heads=1, max_positions=16),
        similarities={
            "itc": CosineSimilarity(
                image_width=3, text_width=3, embed_dim=3, image_pool=MeanPool(), text_pool=MeanPool()
            )
        },
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.vision.projection.weight.copy_(torch.eye(3).repeat_interleave(64, dim=1) / 64)
        model.text.embeddings.word.weight[len(SPECIALS) : len(SPECIALS) + 3] = torch.eye(3)
        model.text.embeddings.norm.weight.fill_(1.0)
        for projection in (model.contrast.image_projection, model.contrast.text_projection):
            projection.weight.copy_(torch.eye(3))
    data = DataConfig(image_size=16, max_length=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    return RetrievalModel(model=model, tokenizer=Tokenizer.from_folder(folder), data=data, fingerprint="colours")


@pytest.fixture
def model(tmp_path: Path) -> RetrievalModel:
    (tmp_path / "words").mkdir()
    return colour_model(tmp_path / "words")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four pictures a colour, of growing share of it, in subfolders; and what a search should pass over."""
    folder = tmp_path / "photos"
    for name, colour in COLOURS.items():
        for size in (8, 16, 24, 32):
            picture = np.full((32, 32, 3), 128, dtype=np.uint8)
            picture[:size] = colour
            path = folder / name / f"{size:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    (folder / "notes.txt").write_text("no picture")
    (folder / ".thumbs").mkdir()
    (folder / ".thumbs" / "red.png").write_bytes((folder / "red" / "32.png").read_bytes())
    return folder


def names(model: RetrievalModel, folder: Path, *sentences: str, top: int = 4) -> list[list[str]]:
    hits = find(model, open_pictures(folder), sentences, top=top, rerank=0, progress=False).hits
    return [[hit.name for hit in row] for row in hits]


def test_the_pictures_of_a_colour_are_found_by_its_name(model: RetrievalModel, photos: Path) -> None:
    found = names(model, photos, "a picture of red", "blue", "green")
    assert [{name.split("/")[0] for name in row} for row in found] == [{"red"}, {"blue"}, {"green"}]
    assert len(names(model, photos, "red", top=100)[0]) == 12


def test_scores_are_cosines_in_falling_order(model: RetrievalModel, photos: Path) -> None:
    (hits,) = find(model, open_pictures(photos), ["red"], top=12, rerank=0, progress=False).hits
    scores = [hit.cosine for hit in hits]
    assert scores == sorted(scores, key=lambda s: -(s or 0))
    expected = model.score([photos / hit.name for hit in hits], "red")[:, 0]
    assert scores == pytest.approx(expected.tolist(), abs=1e-6)
    assert all(hit.match is None for hit in hits)


def test_the_fused_head_orders_the_shortlist_anew(
    model: RetrievalModel, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = open_pictures(photos)
    (plain,) = find(model, pictures, ["red"], top=12, rerank=0, progress=False).hits

    def match_all(images: list[torch.Tensor], texts: str) -> torch.Tensor:
        assert texts == "red"
        return torch.arange(float(len(images)))[:, None]  # the last of the shortlist fits best

    monkeypatch.setattr(model, "match_all", match_all)
    (hits,) = find(model, pictures, ["red"], top=6, rerank=3, progress=False).hits
    assert [hit.name for hit in hits] == [plain[i].name for i in (2, 1, 0, 3, 4, 5)]
    assert [hit.match for hit in hits] == [2.0, 1.0, 0.0, None, None, None]
    (deeper,) = find(model, pictures, ["red"], top=2, rerank=12, progress=False).hits
    assert [hit.name for hit in deeper] == [plain[11].name, plain[10].name]


def test_words_that_read_patches_re_rank_mixed_with_the_first_stage(data: Path, photos: Path, tmp_path: Path) -> None:
    two = parts.two_stream(teacher=False)
    adapter = lazy(TokenAdapter)(width=parts.WIDTH, embed_dim=8, unit=True)
    words = lazy(TokenSimilarity)(image=adapter, text=adapter, scorer=lazy(WordAttention)(embed_dim=8))
    kept = two["model"].kwargs["similarities"]["itc"]
    two["model"].kwargs |= {"fusion": None, "similarities": {"itc": kept, "words": words}}
    two["objectives"] = {"itc": two["objectives"]["itc"]}
    config = replace(small_config(data, tmp_path / "run", steps=1), **two, evaluation=EvaluationConfig(mix=0.5))
    export(save(config, tmp_path / "run", data), tmp_path / "out")
    model, pictures = vlp.load(tmp_path / "out", device="cpu"), open_pictures(photos)
    assert (model.matcher, model.mix) == ("words", 0.5)
    paths = [photos / name for name in pictures.names]
    logits = model.match_all(paths, "worda wordb")[:, 0]
    wanted = logits + 0.5 / 0.07 * model.score(paths, "worda wordb")[:, 0]
    (hits,) = find(model, pictures, ["worda wordb"], top=12, rerank=12, progress=False).hits
    assert [hit.number for hit in hits] == wanted.argsort(descending=True).tolist()
    assert [hit.match for hit in hits] == pytest.approx(logits[[hit.number for hit in hits]].tolist(), abs=1e-5)


def test_unreadable_pictures_are_named_and_skipped(model: RetrievalModel, photos: Path) -> None:
    whole = (photos / "red" / "32.png").read_bytes()
    (photos / "red" / "32.png").write_bytes(whole[:40])
    (photos / "blue" / "empty.jpg").write_bytes(b"")
    (photos / "blue" / "link.jpg").symlink_to(photos / "nowhere.jpg")
    found = find(model, open_pictures(photos), ["red"], top=99, rerank=0, progress=False)
    assert sorted(line.split(":")[0] for line in found.unreadable) == ["blue/empty.jpg", "red/32.png"]
    assert len(found.hits[0]) == 11
    for path in photos.rglob("*.png"):
        path.write_bytes(b"nothing")
    with pytest.raises(SearchError, match="none of the 13 pictures"):
        find(model, open_pictures(photos), ["red"], progress=False, rerank=0)


def test_shards_are_searched_like_folders(model: RetrievalModel, photos: Path, tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "shards", samples_per_shard=5) as writer:
        for i, path in enumerate(sorted(photos.glob("[!.]*/*.png"))):
            record = {"image_id": i, "filename": path.name, "captions": [{"id": i, "text": "red"}]}
            key = f"{path.parent.name}-{path.stem}"
            writer.add(key, {"png": path.read_bytes(), "json": json.dumps(record).encode()})
    found, filed = (names(model, folder, "red", "blue", top=12) for folder in (tmp_path / "shards", photos))
    assert found == [[name.replace("/", "-").removesuffix(".png") for name in row] for row in filed]


def test_a_one_stream_model_ranks_every_pair(one_stream: Path, photos: Path, tmp_path: Path) -> None:
    export(one_stream, tmp_path / "out")
    model = vlp.load(tmp_path / "out", device="cpu")
    sentences = ["worda wordb", "wordc"]
    pictures = open_pictures(photos)
    scores = model.match_all([photos / name for name in pictures.names], sentences)
    for i, hits in enumerate(find(model, pictures, sentences, top=5, progress=False).hits):
        assert [hit.number for hit in hits] == scores[:, i].argsort(descending=True)[:5].tolist()
        assert [hit.match for hit in hits] == pytest.approx(scores[:, i].sort(descending=True).values[:5].tolist())


# ---------------------------------------------------------------- the cache


def counted(model: RetrievalModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of the encoder sees."""
    counts: list[int] = []
    encode = model.encode_images

    def encode_images(images: list[torch.Tensor]) -> torch.Tensor:
        counts.append(len(images))
        return encode(images)

    monkeypatch.setattr(model, "encode_images", encode_images)
    return counts


def test_the_cache_encodes_only_what_changed(
    model: RetrievalModel, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = counted(model, monkeypatch)

    def search(fingerprint: str = "one") -> list[tuple[str, float | None]]:
        cache = EmbeddingCache(tmp_path / "out", photos, fingerprint)
        hits = find(model, open_pictures(photos), ["red"], top=99, rerank=0, cache=cache, progress=False).hits[0]
        return [(hit.name, hit.cosine) for hit in hits]

    before = sorted(str(p) for p in photos.rglob("*"))
    first = search()
    assert search() == first
    assert counts == [12]
    changed = photos / "red" / "32.png"
    changed.write_bytes((photos / "blue" / "32.png").read_bytes())
    os.utime(changed, ns=(1, 1))
    second = search()
    assert counts == [12, 1]
    assert (dict(first)["red/32.png"] or 0) > 0.9
    assert (dict(second)["red/32.png"] or 0) < 0.1
    search("another model")
    assert counts == [12, 1, 12]
    assert sorted(str(p) for p in photos.rglob("*")) == before
    next((tmp_path / "out" / "search").iterdir()).write_bytes(b"damaged")
    again = search()  # in one block now, so the last digit may differ
    assert [name for name, _ in again] == [name for name, _ in second]
    assert [score for _, score in again] == pytest.approx([score for _, score in second], abs=1e-6)


# ---------------------------------------------------------------- the command


@pytest.fixture
def exported(two_stream: Path, tmp_path: Path) -> Path:
    export(two_stream, tmp_path / "out")
    return tmp_path / "out"


def test_the_command_prints_hits_and_draws_them(
    exported: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheets" / "hits.png"
    words = ["search", str(exported), "--images", str(photos), "worda wordb", "wordc", "--top", "3", "--cache"]
    assert cli.main([*words, "--sheet", str(sheet)]) == 0
    printed = capsys.readouterr().out
    assert printed.index('"worda wordb"') < printed.index('"wordc"')
    rows = [line.split() for line in printed.splitlines() if line.endswith(".png") and ".png" in line.split()[-1]]
    ranked = [row for row in rows if row[0] in "123" and len(row) == 4]
    assert [row[0] for row in ranked] == ["1", "2", "3"] * 2
    assert all(float(row[1]) <= 1 for row in ranked)
    assert [float(row[2]) for row in ranked[:3]] == sorted((float(row[2]) for row in ranked[:3]), reverse=True)
    assert f"12 pictures searched; contact sheet: {sheet}" in printed
    assert [p.name for p in sheet.parent.iterdir()] == ["hits.png"]
    with Image.open(sheet) as image:
        assert image.width == 640
        assert image.height > 2 * 176
    assert len(list((exported / "search").iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "red"], "nowhere is no folder"),
        (["empty", "red"], "holds no pictures"),
        (["photos", " "], "a sentence is empty"),
        (["photos", "red", "--top", "0"], "--top is 0"),
        (["photos", "red", "--rerank", "-1"], "--rerank is -1"),
    ],
)
def test_requests_that_make_no_sense_are_refused(
    arguments: list[str], message: str, exported: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    folder, *rest = arguments
    words = ["search", str(exported), "--images", str(tmp_path / folder), *rest, "--sheet", str(tmp_path / "x.png")]
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_reranking_needs_a_fused_head(model: RetrievalModel) -> None:
    from vlp.retrieval.search import depth

    assert depth(model, None) == 0
    with pytest.raises(SearchError, match="nothing to re-rank with"):
        depth(model, 4)


# ---------------------------------------------------------------- the sheet


def test_the_sheet_shows_each_hit_at_its_place(model: RetrievalModel, photos: Path) -> None:
    pictures = open_pictures(photos)
    sentences = ["red", "green", "blue"]
    hits = find(model, pictures, sentences, top=2, rerank=0, progress=False).hits
    sheet = np.array(draw_sheet(sentences, hits, pictures))
    strongest = [tuple(row) for row in sheet.reshape(-1, 3).tolist() if max(row) == 230 and min(row) == 20]
    order = list(dict.fromkeys(strongest))
    assert order == [COLOURS[name] for name in sentences]
    for name in sentences:
        assert strongest.count(COLOURS[name]) > 176 * 176 / 4


def test_a_sheet_in_the_searched_folder_is_not_searched(photos: Path) -> None:
    (photos / "hits.png").write_bytes((photos / "red" / "32.png").read_bytes())
    assert "hits.png" in PictureFolder(photos).names
    assert "hits.png" not in PictureFolder(photos, leave_out=photos / "red" / ".." / "hits.png").names


def test_long_sentences_are_wrapped() -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(20)
    text = " ".join(["a long sentence about many things"] * 8)
    lines = wrap(text, font, 300)
    assert " ".join(lines) == text
    assert max(font.getlength(line) for line in lines) <= 300
    assert wrap("x" * 200, font, 300) == ["x" * 200]
