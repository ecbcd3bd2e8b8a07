"""Evaluation end to end on tiny models: re-ranking everything equals full scoring, chunks and ceilings are honest."""

from pathlib import Path

import pytest
import torch

from tests.data.conftest import WORDS, jpeg, record
from tests.parts import one_stream, two_stream
from vlp.config import build
from vlp.data.config import DataConfig
from vlp.data.evaluation import EvaluationSet
from vlp.data.shards import ShardWriter
from vlp.data.tokenizer import Tokenizer
from vlp.model import VLModel
from vlp.retrieval.bank import normalised
from vlp.retrieval.config import EvaluationConfig
from vlp.retrieval.embed import embed
from vlp.retrieval.evaluate import evaluate, smallest_k
from vlp.retrieval.ranks import count_image_to_text, count_text_to_image, reranked_metrics, retrieval_metrics
from vlp.retrieval.rerank import score_pairs, top_candidates


@pytest.fixture
def dataset(tmp_path: Path) -> EvaluationSet:
    folder = tmp_path / "set"
    with ShardWriter(folder, samples_per_shard=4) as writer:
        for i in range(9):
            captions = [" ".join(WORDS[(i + j + k) % 9] for k in range(1 + (i + j) % 5)) for j in range(1 + i % 3)]
            writer.add(f"{i}", {"jpg": jpeg(i), "json": record(i, captions)})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    return EvaluationSet(DataConfig(image_size=32), folder, Tokenizer.from_folder(folder))


def model(system: object, seed: int = 0) -> VLModel:
    torch.manual_seed(seed)
    made: VLModel = build(system()["model"])  # type: ignore[operator]
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def slow_scores(made: VLModel, dataset: EvaluationSet) -> torch.Tensor:
    """Every pair by itself: one picture, one caption, one forward."""
    images = [b.to("cpu") for b in dataset.image_batches(1)]
    texts = {int(b.caption_id): b for b in dataset.text_batches(1)}
    out = torch.zeros(dataset.num_images, dataset.num_texts)
    with torch.inference_mode():
        for i, image in enumerate(images):
            prepared = made.prepare_image(made.encode_image(image))
            for c in range(dataset.num_texts):
                text = made.encode_text(texts[c].text_ids, texts[c].text_mask)
                out[i, c] = made.match(text, prepared)
    return out


@pytest.mark.parametrize("system", [two_stream, one_stream])
@pytest.mark.parametrize("rows", [3, 512])
def test_grouped_scores_are_the_scores_of_single_pairs(dataset: EvaluationSet, system: object, rows: int) -> None:
    made = model(system)
    every = torch.ones(dataset.num_images, dataset.num_texts) > 0
    got = score_pairs(made, embed(made, dataset, 4, progress=False), every, rows, progress=False)
    torch.testing.assert_close(got, slow_scores(made, dataset), rtol=1e-4, atol=1e-5)


def test_reranking_all_equals_full_scoring(dataset: EvaluationSet) -> None:
    made = model(two_stream)
    full = evaluate(made, dataset, EvaluationConfig(full=True), progress=False)
    reranked = evaluate(made, dataset, EvaluationConfig(k=dataset.num_texts), progress=False)
    assert full.full == reranked.reranked
    assert full.first == reranked.first
    assert reranked.ceiling == {"image to text": 100.0, "text to image": 100.0}


def test_reranked_recall_never_passes_the_ceiling(dataset: EvaluationSet) -> None:
    for k in (1, 2, 4):
        report = evaluate(model(two_stream), dataset, EvaluationConfig(k=k), progress=False)
        for side, ceiling in report.ceiling.items():
            for n in (1, 5, 10):
                if n <= k:
                    assert report.reranked[side][f"R@{n}"] <= ceiling + 1e-9


def test_another_model_can_make_the_shortlist(dataset: EvaluationSet) -> None:
    one, two = model(one_stream), model(two_stream, seed=1)
    shortlisted = evaluate(one, dataset, EvaluationConfig(k=19), first_stage=(two, dataset), progress=False)
    alone = evaluate(one, dataset, EvaluationConfig(), progress=False)
    assert alone.first is None
    assert shortlisted.reranked == alone.full
    assert shortlisted.first == evaluate(two, dataset, EvaluationConfig(k=0), progress=False).first


def test_a_bank_corrects_the_first_stage_and_what_is_reranked(dataset: EvaluationSet) -> None:
    made = model(two_stream)
    plain = evaluate(made, dataset, EvaluationConfig(k=2), progress=False)
    banked = evaluate(made, dataset, EvaluationConfig(k=2, mix=1.0), bank=dataset, progress=False)
    gallery = embed(made, dataset, EvaluationConfig().batch_size, progress=False)
    corrected = normalised(gallery.first_stage(), gallery, gallery, EvaluationConfig().bank_beta)
    assert plain.banked is None
    assert banked.first == plain.first
    assert banked.banked == retrieval_metrics(corrected, dataset.text_image)
    assert banked.banked != banked.first
    images, texts = top_candidates(corrected, 2)
    second = score_pairs(made, gallery, images | texts, progress=False) + gallery.scale * corrected
    assert banked.reranked == reranked_metrics(corrected, second, images, texts, dataset.text_image)
    assert "and bank" in banked.table()


def test_the_smallest_k_reaches_the_ceiling_and_one_less_does_not(dataset: EvaluationSet) -> None:
    first = embed(model(two_stream), dataset, 4, progress=False).first_stage()
    owners = dataset.text_image
    k = smallest_k(first, owners, 0.7)
    sides = (count_image_to_text(first, owners), count_text_to_image(first, owners))
    assert all(float(s.hit(k).mean()) >= 0.7 for s in sides)
    assert k == 1 or any(float(s.hit(k - 1).mean()) < 0.7 for s in sides)


def test_candidates_are_the_best_k_each_way() -> None:
    scores = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    images, texts = top_candidates(scores, 3)
    assert (images.sum(1) == 3).all()
    assert (texts.sum(0) == 3).all()
    for i in range(5):
        assert scores[i][images[i]].min() >= scores[i][~images[i]].max()
    assert top_candidates(scores, 99)[0].all()


def test_a_broken_model_is_an_error_not_a_score(dataset: EvaluationSet) -> None:
    made = model(two_stream)
    with torch.no_grad():
        made.similarities["itm"].classifier.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="re-ranking scores are not finite"):
        evaluate(made, dataset, EvaluationConfig(k=2), progress=False)


def test_the_mode_of_the_model_is_restored_and_the_report_is_json(dataset: EvaluationSet) -> None:
    made = model(two_stream).train()
    report = evaluate(made, dataset, EvaluationConfig(k=2), progress=False)
    assert made.training
    told = report.to_json()
    assert told["reranked"]["all"]["rsum"] == sum(
        told["reranked"][s][f"R@{n}"] for s in ("image to text", "text to image") for n in (1, 5, 10)
    )
    assert "re-ranked k=2" in report.table()
