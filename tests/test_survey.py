"""The survey's store, its measures, and that a finished run is not run again."""

import argparse
import json
from pathlib import Path

import pytest
import torch

from benchmarks import survey
from benchmarks.survey_data import Store
from benchmarks.survey_runs import adopt, settings
from data_tools import synthesize
from vlp.data.graph import graph_of
from vlp.data.shards import ShardFolder
from vlp.data.tokenizer import Tokenizer
from vlp.matching import mean_recalls, printed
from vlp.types import Stream
from vlp.view import View


def store(pictures: int = 6, seed: int = 0) -> Store:
    """Regions of the world's shape, two captions a picture; pictures 0 and 1 are twins in a look, 2 and 3 in place."""
    g = torch.Generator().manual_seed(seed)
    texts = 2 * pictures
    lengths = torch.randint(3, 8, (texts, 1), generator=g)
    return Store(
        images=torch.randn(pictures, 5, 64, generator=g).half(),
        image_mask=torch.arange(5)[None] < torch.randint(1, 6, (pictures, 1), generator=g),
        boxes=torch.rand(pictures, 5, 4, generator=g),
        ids=torch.randint(5, 160, (texts, 8), generator=g),
        text_mask=torch.arange(8)[None] < lengths,
        texts=torch.empty(texts, 0, 0),
        text_image=torch.arange(texts) // 2,
        twin=torch.tensor([1, 0, 3, 2] + [-1] * (pictures - 4)),
        twin_kind=torch.tensor([1, 1, 2, 2] + [0] * (pictures - 4)),
        tags=torch.tensor([[7, 8, 9], [7, -1, -1], [5, 6, -1], [-1, -1, -1]] + [[4, -1, -1]] * (pictures - 4)),
        graph=torch.randint(0, 4, (texts, 8, 4), generator=g).short(),
    )


def test_a_store_is_read_back_as_it_was(tmp_path: Path) -> None:
    made = store()
    made.save(tmp_path / "store.safetensors")
    for name, value in vars(Store.load(tmp_path / "store.safetensors")).items():
        assert torch.equal(value, getattr(made, name)), name


def test_a_store_of_before_has_no_tags_and_no_graphs(tmp_path: Path) -> None:
    made = store()
    made.tags = made.graph = None
    made.save(tmp_path / "store.safetensors")
    old = Store.load(tmp_path / "store.safetensors")
    assert old.tags is None
    assert old.batch(torch.tensor([3])).tags is None
    assert old.batch(torch.tensor([3])).graph is None


def test_graphs_go_with_their_captions_and_are_those_of_the_shards(tmp_path: Path) -> None:
    assert synthesized(tmp_path / "world") == 0
    settings, folder, cache = survey.module_of("vsrn").tiny().data, str(tmp_path / "world/val"), tmp_path / "cache"
    assert survey.store(cache, folder, None, settings, 3).graph is None
    made = survey.store(cache, folder, None, survey.module_of("unified_vse").tiny().data, 3)
    found = made.batch(torch.tensor([4, 0, 2])).graph
    assert found is not None
    tokenizer, shards = Tokenizer.from_folder(folder), ShardFolder(folder)
    captions = [c for number in range(3) for c in json.loads(shards.read(*shards.locate(number), "json"))["captions"]]
    for row, number in enumerate([4, 0, 2]):
        wanted = torch.tensor(graph_of(captions[number], tokenizer, settings.max_length))
        rows = torch.stack([found.kind[row], found.node[row], found.phrase[row], found.region[row]], 1)
        assert torch.equal(rows[: len(wanted)], wanted)
        assert bool((rows[len(wanted) :] == torch.tensor([0, -1, -1, -1])).all())


def test_tags_go_with_their_pictures() -> None:
    tags = store().batch(torch.tensor([7, 0, 6, 1])).tags  # pictures 3 and 0
    assert tags is not None
    assert tags.mask.tolist() == [[True] * 3, [False] * 3]
    assert tags.ids[0].tolist() == [7, 8, 9]
    assert bool((tags.ids >= 0).all())


def test_a_store_is_made_again_when_its_tags_are_asked_for(tmp_path: Path) -> None:
    assert synthesized(tmp_path / "world") == 0
    settings, folder, cache = survey.module_of("vsrn").tiny().data, str(tmp_path / "world/val"), tmp_path / "cache"
    old = survey.store(cache, folder, None, settings, 3)
    assert old.tags is None
    settings.use_tags = True
    new = survey.store(cache, folder, None, settings, 3)
    assert torch.equal(new.images, old.images)
    assert new.tags is not None
    tokenizer, shards = Tokenizer.from_folder(folder), ShardFolder(folder)
    for number, row in enumerate(new.tags):
        truth = json.loads(shards.read(*shards.locate(number), "truth.json") or b"{}")
        assert row[row >= 0].tolist() == tokenizer(" ".join(truth["tags"]), 99)[0][1:-1]


def synthesized(out: Path) -> int:
    parser = argparse.ArgumentParser()
    synthesize.add_arguments(parser)
    return synthesize.main(parser.parse_args([str(out), "--train", "2", "--val", "4", "--test", "2", "--workers", "1"]))


def test_fused_pairs_are_scored_once_and_in_place() -> None:
    made, config = store(), survey.module_of("iais").tiny()
    task = survey.Task(**survey.build({"model": config.model, "objectives": config.objectives})).eval()
    whole, _ = survey.scores(task, made, size=100)
    blocks, _ = survey.scores(task, made, size=4)
    torch.testing.assert_close(blocks, whole, rtol=1e-4, atol=1e-5)
    for picture in range(6):
        for caption in range(12):
            view = View(task.model, made.batch(torch.tensor([caption]), torch.tensor([picture])))
            with torch.no_grad():
                alone = task.model.match(view.text, view.prepared)
            torch.testing.assert_close(whole[picture, caption], alone[0], rtol=1e-4, atol=1e-5)


def test_captions_of_a_picture_share_its_row() -> None:
    made = store()
    captions = torch.tensor([7, 0, 6, 1])
    batch = made.batch(captions)
    assert batch.image_id.tolist() == [3, 0, 3, 0]
    assert torch.equal(batch.regions.features[batch.image_row], made.images[batch.image_id].float())
    longest = int(made.text_mask[captions].sum(1).max())
    assert batch.text_ids.tolist() == made.ids[captions, :longest].tolist()
    assert batch.text_mask.tolist() == made.text_mask[captions, :longest].tolist()


def test_every_picture_and_caption_is_measured_once_and_in_place() -> None:
    made = store()
    config = survey.module_of("vsepp").tiny()
    task = survey.Task(**survey.build({"model": config.model, "objectives": config.objectives})).eval()
    whole, _ = survey.scores(task, made, size=100)
    blocks, _ = survey.scores(task, made, size=4)
    torch.testing.assert_close(blocks, whole)
    batch = made.batch(torch.arange(12))
    view = View(task.model, batch)
    similarity = task.model.similarities["itc"]
    wanted = similarity.scores(view.image, view.text)
    torch.testing.assert_close(whole, wanted)


def test_draws_take_so_many_captions_of_each_picture() -> None:
    made = store()
    for _ in range(20):
        owners = made.text_image[survey.draw(made, 8, 2)].tolist()
        assert len(owners) == 8
        assert len(set(owners)) == 4
        alone = survey.draw(made, 6, 1)
        assert len(set(made.text_image[alone].tolist())) == 6
    assert len({tuple(survey.draw(made, 6, 1).sort().values.tolist()) for _ in range(30)}) > 1


def test_twins_are_told_apart_or_not() -> None:
    made, matrix = store(), torch.zeros(6, 12)
    matrix[0, 0], matrix[1, 1] = 1.0, 1.0  # caption 0 finds its picture, 1 its twin; 2 and 3 tie
    assert survey.twin_accuracy(matrix, made, 1) == 100 * (1 + 0 + 0.5 + 0.5) / 4
    assert survey.twin_accuracy(matrix, made, 2) == 50.0
    made.twin_kind[:] = 0
    assert survey.twin_accuracy(matrix, made, 1) is None


def test_a_finished_run_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def run(name: str, seed: int, *_: object) -> dict[str, object]:
        done.append(f"{name} {seed}")
        if len(done) == 3:
            raise KeyboardInterrupt
        return {"image to text R@1": 1.0 + seed, "text to image R@1": 2.0}

    monkeypatch.setattr(survey, "run", run)
    monkeypatch.setattr(survey, "both_stores", lambda args: (None, None))
    args = argparse.Namespace(
        out=tmp_path, data="world", steps=1, batch=2, limit=None, test_limit=None, noise=0.0, seeds=2,
        systems=["vsepp", "scan"], known=[],
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        survey.finished(args)
    found = survey.finished(args)
    assert done == ["vsepp 0", "scan 0", "vsepp 1", "vsepp 1", "scan 1"]
    assert [r["image to text R@1"] for r in found["vsepp"]] == [1.0, 2.0]
    assert mean_recalls(found["vsepp"]) == "1.5 / 2.0"


def test_runs_of_a_table_with_the_same_settings_are_known(tmp_path: Path) -> None:
    def asked(**other: object) -> argparse.Namespace:
        names = {"data": "world", "steps": 9, "batch": 2, "limit": None, "test_limit": 5, "noise": 0.0, "views": 1}
        return argparse.Namespace(**names, out=tmp_path, json=None, cache=None, folders=[], known=[], **other)

    record = {"seed": 1, "image to text R@1": 4.0}
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"settings": settings(asked(systems=["scan"])), "runs": {"scan": [record]}}))
    (tmp_path / "runs").mkdir()
    adopt(table, tmp_path / "runs", asked(systems=["vsepp", "scan"]))
    assert json.loads((tmp_path / "runs/scan-1.json").read_text()) == record
    (tmp_path / "runs/scan-1.json").write_text("mine")
    adopt(table, tmp_path / "runs", asked())
    assert (tmp_path / "runs/scan-1.json").read_text() == "mine"
    longer = asked()
    longer.steps = 10
    with pytest.raises(SystemExit, match=r"table\.json: its runs have other settings: steps 9, not 10"):
        adopt(table, tmp_path / "runs", longer)


def test_printed_figures_are_read_with_their_data_set(tmp_path: Path) -> None:
    assert printed()["VSE++"]["Flickr30K"] == "52.9 / 39.6"
    assert printed()["SGRAF"]["COCO5K"] == "57.8 / 41.9"
    assert printed()["Vilbert"]["Flickr30K"] == "- / 58.2"


def test_measured_figures_come_from_the_newest_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlp import matching

    monkeypatch.setattr(matching, "MEASURED", tmp_path)
    for day, recall in (("2026-01-01", 1.0), ("2026-01-02", 3.0)):
        runs = {"scan": [{"image to text R@1": recall, "text to image R@1": recall}]}
        record = {"settings": {"data": "world"}, "runs": runs}
        (tmp_path / f"{day}-survey-world.json").write_text(json.dumps(record))
    way = matching.describe("scan")
    assert way.measured == {"world": "3.0 / 3.0"}
    assert "67.4 / 48.6" in matching.table([way])


@pytest.mark.parametrize("name", ["gpo", "scan"])
def test_stored_tokens_stand_for_the_encoders(name: str) -> None:
    """A head over stored tokens scores as the same head over the encoders' own streams."""
    made = store()
    made.images, made.image_mask = torch.randn(6, 5, 384).half(), torch.ones(6, 5, dtype=torch.bool)
    made.texts = torch.randn(12, 8, 384).half()
    config = survey.settings_of(name, argparse.Namespace(data="flickr8k"))
    task = survey.Task(**survey.build({"model": config.model, "objectives": config.objectives})).eval()
    found, _ = survey.scores(task, made, size=5)
    similarity = next(iter(task.model.similarities.values()))
    image = Stream(made.images.float(), made.image_mask)
    torch.testing.assert_close(found, similarity.scores(image, Stream(made.texts.float(), made.text_mask)))
    with pytest.raises(ValueError, match="stored word tokens"):
        task.model.encode_text(made.ids, made.text_mask)
