"""Judged positives in the published layout, read with distrust, and figures over them."""

import json
from pathlib import Path

import pytest
import torch

from tests.parts import two_stream
from tests.retrieval.conftest import model
from vlp.data.errors import DataError
from vlp.data.evaluation import EvaluationSet
from vlp.retrieval.config import EvaluationConfig
from vlp.retrieval.evaluate import evaluate
from vlp.retrieval.judgments import read_judgments
from vlp.retrieval.precision import many_positive_metrics
from vlp.retrieval.ranking import Ranking


def write(folder: Path, name: str, forward: object, backward: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}_image_to_caption.json").write_text(json.dumps(forward))
    (folder / f"{name}_caption_to_image.json").write_text(json.dumps(backward))
    return folder


def ids(dataset: EvaluationSet, by_name: bool) -> list[int]:
    """Picture ids as a file of judgments gives them: numbers of their own, or those in the names of their files."""
    if by_name:
        dataset.filenames = [f"COCO_val2014_{5000 + i:012d}.jpg" for i in range(dataset.num_images)]
        return [5000 + i for i in range(dataset.num_images)]
    return dataset.image_ids


@pytest.mark.parametrize("by_name", [False, True])
def test_judged_figures_are_those_of_the_marked_positives(
    dataset: EvaluationSet, tmp_path: Path, by_name: bool
) -> None:
    pictures, captions = ids(dataset, by_name), dataset.caption_ids
    folder = write(
        tmp_path / "judged",
        "eccv",
        {pictures[4]: [captions[0], captions[7]], pictures[1]: [captions[2]]},
        {str(captions[3]): [pictures[8], pictures[0], pictures[2]]},
    )
    (judged,) = read_judgments(folder, dataset)
    scores = torch.randn(dataset.num_images, dataset.num_texts, generator=torch.Generator().manual_seed(0))
    got = judged.metrics(Ranking(scores))
    marks = torch.zeros(2, dataset.num_texts, dtype=torch.bool)
    marks[0, [0, 7]] = marks[1, 2] = True
    assert got["image to text"] == many_positive_metrics(scores[[4, 1]], marks)
    marks = torch.zeros(1, dataset.num_images, dtype=torch.bool)
    marks[0, [8, 0, 2]] = True
    assert got["text to image"] == many_positive_metrics(scores[:, [3]].T.contiguous(), marks)


def test_the_sets_own_captions_as_judgments_are_ordinary_recalls(dataset: EvaluationSet, tmp_path: Path) -> None:
    owners = dataset.text_image.tolist()
    captions = {i: [c for c, o in zip(dataset.caption_ids, owners, strict=True) if o == n]
                for n, i in enumerate(dataset.image_ids)}  # fmt: skip
    pictures = {c: [dataset.image_ids[o]] for c, o in zip(dataset.caption_ids, owners, strict=True)}
    folder = write(tmp_path / "judged", "original", captions, pictures)
    config = EvaluationConfig(k=3, judgments=str(folder))
    report = evaluate(model(two_stream), dataset, config, progress=False)
    for stage, own in (("first", report.first), ("reranked", report.reranked)):
        for side in ("image to text", "text to image"):
            for name in ("R@1", "R@5", "R@10"):
                assert report.judged["original"][stage][side][name] == pytest.approx(own[side][name])
    assert "original, re-ranked k=3: TR R@1" in report.table()


def test_files_that_cannot_be_used_say_why(dataset: EvaluationSet, tmp_path: Path) -> None:
    image, caption = dataset.image_ids[0], dataset.caption_ids[0]
    cases = [
        ({image: [987654]}, {caption: [image]}, r"1 ids that .* \(caption 987654"),
        ({image: [caption]}, {caption: [image], 987654: [image]}, "caption 987654"),
        ({image: [caption]}, {caption: [987654]}, "picture 987654"),
        ({image: []}, {caption: [image]}, "has no positives"),
        ({}, {caption: [image]}, "there are no positives"),
        ([image], {caption: [image]}, "no object of ids"),
        ({image: ["x"]}, {caption: [image]}, "no object of ids"),
    ]
    for number, (forward, backward, message) in enumerate(cases):
        folder = write(tmp_path / f"{number}", "cxc", forward, backward)
        with pytest.raises(DataError, match=message):
            read_judgments(folder, dataset)
    folder = write(tmp_path / "half", "cxc", {image: [caption]}, {})
    (folder / "cxc_caption_to_image.json").unlink()
    with pytest.raises(DataError, match="cxc_caption_to_image.json does not exist"):
        read_judgments(folder, dataset)
