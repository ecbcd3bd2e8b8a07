"""A captioner that re-ranks: each likelihood against the caption alone with its picture, told word by word."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.parts import captioner
from tests.retrieval.conftest import model
from tests.systems import tiny
from vlp.data.evaluation import EvaluationSet
from vlp.model import VLModel
from vlp.retrieval.config import EvaluationConfig
from vlp.retrieval.embed import embed
from vlp.retrieval.evaluate import evaluate
from vlp.retrieval.rerank import score_pairs
from vlp.training import build_task


def alone(made: VLModel, dataset: EvaluationSet, image: int, caption: int) -> float:
    """log p(caption | picture): each word after a pass over the words before it, and nothing else."""
    parts: Any = made
    prepared = made.prepare_image(made.encode_image(dataset.image_batch(image, 1).to("cpu")))
    pieces, total = torch.tensor([dataset.pieces(caption)]), 0.0
    for place in range(1, pieces.shape[1]):
        before = pieces[:, :place]
        states = made.decode(made.encode_text(before, torch.ones_like(before) > 0), prepared)
        logits = parts.similarities["slow"].told(states[0, -1:], parts.text.embeddings.word.weight)
        total += float(logits[0].double().log_softmax(0)[pieces[0, place]])
    return total


@torch.no_grad()
@pytest.mark.parametrize("rows", [3, 512])
def test_the_slow_score_is_the_likelihood_of_the_caption_alone(
    dataset: EvaluationSet, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = model(captioner)
    tokens = embed(made, dataset, 4, progress=False, names=["slow"]).tokens["slow"]
    pairs = torch.rand(dataset.num_images, dataset.num_texts, generator=torch.Generator().manual_seed(0)) < 0.4
    projected, prepare = [], made.prepare_image
    monkeypatch.setattr(made, "prepare_image", lambda image: (projected.append(len(image.mask)), prepare(image))[1])
    found = score_pairs(made, "slow", tokens, pairs, EvaluationConfig(rows=rows), progress=False)
    assert projected == [1] * int(pairs.any(1).sum())  # keys and values of a picture once for all its captions
    assert not found[~pairs].any()
    for image, caption in pairs.nonzero().tolist():
        assert abs(float(found[image, caption]) - alone(made, dataset, image, caption)) < 1e-4


def test_reranking_all_by_likelihood_equals_full_scoring(dataset: EvaluationSet) -> None:
    made, config = model(captioner), EvaluationConfig(k=dataset.num_texts, resamples=0)
    staged = evaluate(made, dataset, config, progress=False)
    full = evaluate(made, dataset, replace(config, full=True), progress=False)
    assert (staged.first_by, staged.second_by, full.second_by) == ("itc", "slow", "slow")
    assert staged.reranked == full.full != staged.first


def test_the_tiny_system_reports_both_stages(dataset: EvaluationSet) -> None:
    config = tiny("fast_slow")
    made = build_task(config, read_weights=False).model
    small = EvaluationSet(config.data, dataset.folder, dataset.dataset.tokenizer)
    report = evaluate(made, small, replace(config.evaluation, k=3), progress=False)
    assert (report.first_by, report.second_by, report.k) == ("itc", "slow", 3)
    assert [key for key, _, _ in report.stages()] == ["first", "reranked"]
    assert "first-stage R@3" in report.table()
