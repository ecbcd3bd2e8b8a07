"""Exports: the loaded model is the evaluated one, the folder stands alone, nothing of the user's is overwritten."""

import json
import re
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image

import vlp
from tests import parts
from tests.interop.conftest import save, write_checkpoint
from tests.small_run import small_config
from vlp import cli
from vlp.config import Lazy, build, lazy
from vlp.data.config import DataConfig
from vlp.data.evaluation import EvaluationSet
from vlp.data.shards import ShardFolder
from vlp.data.tokenizer import Tokenizer
from vlp.engine.manifest import write_manifest
from vlp.engine.tensors import CheckpointError, read_tensors
from vlp.interop.folder import export
from vlp.loading import ExportError, RetrievalModel
from vlp.retrieval.config import EvaluationConfig
from vlp.retrieval.embed import embed
from vlp.retrieval.find import find
from vlp.retrieval.pictures import open_pictures
from vlp.retrieval.rerank import score_pairs
from vlp.similarity.late import LateInteraction
from vlp.training import load_model


def pictures_of(data: Path, folder: Path) -> list[Path]:
    """The pictures of a shard folder as files."""
    shards = ShardFolder(data)
    paths = []
    for i in range(shards.num_samples):
        paths.append(folder / f"{i}.png")
        paths[-1].write_bytes(shards.read(*shards.locate(i), "png") or b"")
    return paths


@pytest.mark.parametrize("system", ["two_stream", "one_stream"])
def test_a_loaded_export_scores_exactly_as_the_checkpoint(
    system: str, data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    checkpoint = request.getfixturevalue(system)
    export(checkpoint, tmp_path / "out")
    loaded = vlp.load(tmp_path / "out", device="cpu")
    model, config, tokenizer = load_model(checkpoint)
    live = RetrievalModel(model=model, tokenizer=tokenizer, data=config.data)
    images, texts = pictures_of(data, tmp_path), ["worda wordb", "wordc", "wordab wordac wordad wordae"]
    assert torch.equal(loaded.match_all(images, texts), live.match_all(images, texts))
    assert torch.equal(loaded.score(images, texts), live.score(images, texts))
    assert loaded.score(images, texts).shape == (len(images), 3)
    assert loaded.score(images, texts).std() > 0


def test_the_loaded_model_scores_as_evaluation_does(two_stream: Path, data: Path, tmp_path: Path) -> None:
    export(two_stream, tmp_path / "out")
    loaded = vlp.load(str(tmp_path / "out"), device="cpu")
    model, config, tokenizer = load_model(two_stream)
    dataset = EvaluationSet(config.data, data, tokenizer)
    gallery = embed(model, dataset, 64, progress=False)
    images = pictures_of(data, tmp_path)
    vectors = gallery.vectors["itc"]
    assert torch.equal(loaded.encode_images(images), vectors.image)
    torch.testing.assert_close(loaded.score(images, dataset.captions), vectors.products(), rtol=0, atol=1e-6)
    every = torch.ones(dataset.num_images, dataset.num_texts, dtype=torch.bool)
    fused = score_pairs(model, "itm", gallery.tokens["itm"], every, EvaluationConfig(), progress=False)
    torch.testing.assert_close(loaded.match_all(images, dataset.captions), fused, rtol=0, atol=1e-5)


def test_a_captioner_is_evaluated_exported_and_searched_with_the_head_that_ranks(data: Path, tmp_path: Path) -> None:
    run, written = write_checkpoint(data, tmp_path / "run", parts.captioner()), tmp_path / "found.json"
    assert cli.main(["evaluate", str(run), "--data", str(data), "--k", "5", "--json", str(written)]) == 0
    record = json.loads(written.read_text())
    assert (record["first_by"], record["second_by"], record["k"]) == ("itc", "slow", 5)
    assert {"first", "reranked"} <= record.keys()
    export(run, tmp_path / "out")
    loaded = vlp.load(tmp_path / "out", device="cpu")
    model, config, tokenizer = load_model(run)
    dataset = EvaluationSet(config.data, data, tokenizer)
    tokens = embed(model, dataset, 64, progress=False, names=["slow"]).tokens["slow"]
    every = torch.ones(dataset.num_images, dataset.num_texts, dtype=torch.bool)
    slow = score_pairs(model, "slow", tokens, every, EvaluationConfig(), progress=False)
    (tmp_path / "photos").mkdir()
    images = pictures_of(data, tmp_path / "photos")
    torch.testing.assert_close(loaded.match_all(images, dataset.captions), slow, rtol=0, atol=1e-4)
    torch.testing.assert_close(loaded.match(images, dataset.captions[:10]), slow[:, :10].diagonal(), rtol=0, atol=1e-4)
    (hits,) = find(loaded, open_pictures(tmp_path / "photos"), dataset.captions[:1], top=9, rerank=4).hits
    matches = [hit.match for hit in hits[:4]]
    assert matches == sorted(matches, key=lambda match: -(match or 0))
    assert matches == pytest.approx([float(slow[int(Path(hit.name).stem), 0]) for hit in hits[:4]], abs=1e-4)
    assert all(hit.match is None for hit in hits[4:])


def test_pairs_and_blocks_do_not_change_a_score(two_stream: Path, data: Path, tmp_path: Path) -> None:
    export(two_stream, tmp_path / "out")
    model = vlp.load(tmp_path / "out", device="cpu")
    images, texts = pictures_of(data, tmp_path)[:5], ["worda", "wordb wordc", "wordd", "wordaa wordab wordac", "worde"]
    grid = model.match_all(images, texts)
    close = {"rtol": 0.0, "atol": 1e-5}
    torch.testing.assert_close(model.match_all(images, texts, batch_size=2), grid, **close)
    torch.testing.assert_close(model.match(images, texts, batch_size=2), grid.diagonal(), **close)
    torch.testing.assert_close(model.match(images[1], texts), grid[1], **close)
    torch.testing.assert_close(model.match(images, texts[1]), grid[:, 1], **close)
    torch.testing.assert_close(model.encode_images(images, batch_size=2), model.encode_images(images), **close)
    assert model.encode_texts(texts).norm(dim=1).tolist() == pytest.approx([1.0] * 5)
    opened = [Image.open(path) for path in images]
    assert torch.equal(model.encode_images(opened), model.encode_images(images))
    with pytest.raises(ValueError, match="5 pictures and 2 texts do not pair"):
        model.match(images, texts[:2])
    with pytest.raises(ValueError, match="one of the texts is empty"):
        model.encode_texts(["worda", " "])
    with pytest.raises(ValueError, match="nowhere.png is no readable picture"):
        model.encode_images(tmp_path / "nowhere.png")


def test_a_model_without_embeddings_says_so(one_stream: Path, data: Path, tmp_path: Path) -> None:
    export(one_stream, tmp_path / "out")
    model = vlp.load(tmp_path / "out", device="cpu")
    assert (model.embeds, model.matches) == (False, True)
    with pytest.raises(ValueError, match="no indexable similarity"):
        model.encode_texts("worda")


def test_an_export_needs_no_other_file(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the checkpoint, nor the weight files that its parts once started from."""
    config = small_config(data, tmp_path / "run", steps=1)
    run = save(config, tmp_path / "run", data)
    record = json.loads((run / "config.json").read_text())
    record["model"]["text"]["weights"] = "/gone/bert"
    record["init"], record["init_parts"] = "/gone/clip", ["vision"]
    _rewrite(run, "config.json", json.dumps(record))
    export(run, tmp_path / "out", dtype="fp16")
    shutil.rmtree(tmp_path / "run")
    model = vlp.load(tmp_path / "out", device="cpu")
    assert model.encode_texts("worda").shape == (1, 16)
    assert "/gone" not in (tmp_path / "out" / "config.json").read_text()
    assert "started from: vision of checkpoint gone/clip, gone/bert" in (tmp_path / "out" / "README.md").read_text()


def _rewrite(checkpoint: Path, name: str, text: str) -> None:
    """Change a file of a checkpoint, and its entry in the manifest."""
    (checkpoint / name).write_text(text)
    (checkpoint / "manifest.json").unlink()
    write_manifest(checkpoint)


def test_stored_precision(two_stream: Path, data: Path, tmp_path: Path) -> None:
    export(two_stream, tmp_path / "full")
    export(two_stream, tmp_path / "half", dtype="fp16")
    full, half = (read_tensors(tmp_path / name / "model.safetensors") for name in ("full", "half"))
    assert {t.dtype for t in full.values()} == {torch.float32}
    assert {t.dtype for t in half.values()} == {torch.float16}
    assert not any(name.startswith(("teacher", "objectives")) for name in full)
    images = pictures_of(data, tmp_path)
    one, other = (vlp.load(tmp_path / name, device="cpu").score(images, ["worda wordb"]) for name in ("full", "half"))
    torch.testing.assert_close(one, other, rtol=0, atol=5e-3)


def test_export_replaces_an_export_and_nothing_else(two_stream: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export(two_stream, out)
    first = (out / "model.safetensors").read_bytes()
    export(two_stream, out)
    assert (out / "model.safetensors").read_bytes() == first
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"files that no export writes \(notes.txt\)"):
        export(two_stream, out)
    other = tmp_path / "photos"
    other.mkdir()
    (other / "a.jpg").write_text("mine")
    with pytest.raises(ExportError, match="not empty and no export"):
        export(two_stream, other)
    with pytest.raises(ExportError, match="is a file"):
        export(two_stream, other / "a.jpg")
    assert (other / "a.jpg").read_text() == (out / "notes.txt").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "photos"]


def test_an_interrupted_export_leaves_the_older_one(
    two_stream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export(two_stream, out)

    def full_disk(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("vlp.interop.folder._sha256", full_disk)
    with pytest.raises(ExportError, match="no space left"):
        export(two_stream, out, dtype="fp16")
    assert json.loads((out / "config.json").read_text())["dtype"] == "fp32"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_command_takes_a_run_and_says_how_to_go_on(
    two_stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", str(two_stream.parent), str(tmp_path / "out")]) == 0
    model, _, _ = load_model(two_stream)
    printed = capsys.readouterr().out
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters, fp32, 0 evaluation(s)" in printed
    assert "vlp.load(" in printed
    assert cli.main(["export", str(tmp_path / "nowhere"), str(tmp_path / "out2")]) == 2
    assert "CheckpointError" in capsys.readouterr().err


# ---------------------------------------------------------------- what cannot be loaded


def test_folders_that_are_no_exports_are_refused(two_stream: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="but not one; make one with `vlp export"):
        vlp.load(tmp_path)
    with pytest.raises(ExportError, match="but a checkpoint or a run"):
        vlp.load(two_stream)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"format_version": 99}, "is of format vlp-export 99"),
        ("config.json", {"model": {"_target_": "os.system"}}, "not a class of this project"),
        ("preprocessing.json", {"resize": "crop"}, "asks for resize 'crop'"),
    ],
)
def test_an_export_of_another_version_is_refused(
    file: str, change: dict[str, Any], message: str, two_stream: Path, tmp_path: Path
) -> None:
    export(two_stream, tmp_path / "out")
    path = tmp_path / "out" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        vlp.load(tmp_path / "out")


def test_weights_of_another_model_are_refused(two_stream: Path, one_stream: Path, tmp_path: Path) -> None:
    export(two_stream, tmp_path / "two")
    export(one_stream, tmp_path / "one")
    shutil.copy(tmp_path / "one" / "model.safetensors", tmp_path / "two" / "model.safetensors")
    with pytest.raises(CheckpointError, match="missing: vision.vit"):
        vlp.load(tmp_path / "two")


# ---------------------------------------------------------------- the model card

METRICS = {"R@1": 12.5, "R@5": 37.25, "R@10": 50.125, "median rank": 9.0, "mean rank": 31.4, "ties": 0.0}


def test_the_card_holds_the_numbers_given_and_no_others(two_stream: Path, tmp_path: Path) -> None:
    run = shutil.copytree(two_stream, tmp_path / "run" / two_stream.name)
    stage = {"image to text": METRICS, "text to image": METRICS, "all": {"rsum": 199.75}}
    record = {"data": "/home/somebody/data/flickr/test", "images": 10, "texts": 20, "first": stage, "checkpoint": "x"}
    (run / "evaluation-test.json").write_text(json.dumps(record))
    card = export(run, tmp_path / "out", name="tiny")
    text = (tmp_path / "out" / "README.md").read_text()
    measured = text[text.index("## Measured") : text.index("## Model")]
    numbers = set(re.findall(r"(?<![@\w.])\d+(?:\.\d+)?", measured))
    assert numbers == {"12.5", "37.2", "50.1", "199.8", "9", "31.4", "0.0", "10", "20"}
    assert "somebody" not in text
    assert "somebody" not in (tmp_path / "out" / "evaluation-test.json").read_text()
    assert json.loads((tmp_path / "out" / "evaluation-test.json").read_text())["first"] == stage
    assert text.count("# tiny\n") == 1
    assert f"| all | | {card.parameters:,} |" in text
    assert "seed: 3" in text
    assert "torch: 9.9.9" in text
    assert "started from: random weights" in text


def test_the_card_of_an_unmeasured_model_says_so(two_stream: Path, tmp_path: Path) -> None:
    export(two_stream, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    measured = text[text.index("## Measured") : text.index("## Model")]
    assert "no evaluation was found" in measured
    assert not re.search(r"\d", measured)


def test_a_broken_evaluation_record_is_named(two_stream: Path, tmp_path: Path) -> None:
    run = shutil.copytree(two_stream, tmp_path / "run" / two_stream.name)
    (run / "evaluation-test.json").write_text("{")
    with pytest.raises(ExportError, match="evaluation-test.json is no evaluation record"):
        export(run, tmp_path / "out")
    (run / "evaluation-test.json").write_text('{"data": "x", "first": {}}')
    with pytest.raises(ExportError, match="evaluation-test.json is no evaluation record"):
        export(run, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_parts_of_the_card_are_those_of_the_config(one_stream: Path, tmp_path: Path) -> None:
    card = export(one_stream, tmp_path / "out")
    model = cast(Lazy, card.config.model)
    text = (tmp_path / "out" / "README.md").read_text()
    for part in ("vision", "text", "fusion"):
        assert f"| {part} | {model.get(part).target.__name__} | {card.parts[part]:,} |" in text
    assert f"| similarities | itm MatchingHead | {card.parts['similarities']:,} |" in text
    assert "fused log-odds of every pair" in text
    assert card.parts["similarities"] == parts.WIDTH * 2 + 2


def test_a_model_that_looks_at_pairs_alone_scores_and_searches(tmp_path: Path) -> None:
    made = parts.two_stream()["model"]
    late = lazy(LateInteraction)(image_width=parts.WIDTH, text_width=parts.WIDTH, embed_dim=8)
    made.kwargs["similarities"] = {"late": late}
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "worda", "wordb"]))
    model = RetrievalModel(
        model=build(made), tokenizer=Tokenizer.from_folder(tmp_path), data=DataConfig(image_size=parts.SIZE)
    )
    images = list(torch.randint(256, (5, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    texts = ["worda wordb", "wordb", "worda"]
    grid = model.score(images, texts)
    for i, image in enumerate(images):
        for j, text in enumerate(texts):
            torch.testing.assert_close(model.score(image, text), grid[i : i + 1, j : j + 1], rtol=0, atol=1e-5)
    assert torch.equal(model.match_all(images, texts), grid)
    torch.testing.assert_close(model.match(images[:3], texts), grid[:3].diagonal(), rtol=0, atol=1e-5)


def test_embeddings_alone_look_at_no_pair(tmp_path: Path, data: Path) -> None:
    two = parts.two_stream(teacher=False)
    two["model"].kwargs["similarities"].pop("itm")
    two["model"].kwargs["fusion"] = None
    model = RetrievalModel(
        model=build(two["model"]), tokenizer=Tokenizer.from_folder(data), data=DataConfig(image_size=parts.SIZE)
    )
    assert (model.embeds, model.matches) == (True, False)
    with pytest.raises(ValueError, match="no similarity that looks at pairs"):
        model.match_all(torch.zeros(3, 40, 40, dtype=torch.uint8), "worda")
