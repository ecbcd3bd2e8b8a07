"""Evaluation end to end on tiny models: re-ranking everything equals full scoring, chunks and ceilings are honest."""

from dataclasses import replace

import pytest
import torch

from tests.parts import one_stream, two_stream
from tests.retrieval.conftest import model
from vlp.data.errors import DataError
from vlp.data.evaluation import EvaluationSet
from vlp.model import VLModel
from vlp.retrieval.bank import normalised
from vlp.retrieval.config import EvaluationConfig
from vlp.retrieval.embed import embed
from vlp.retrieval.evaluate import evaluate
from vlp.retrieval.ranks import reranked_metrics, retrieval_metrics
from vlp.retrieval.rerank import score_pairs
from vlp.retrieval.shortlist import ceilings, smallest_k, top_candidates


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
    tokens = embed(made, dataset, 4, progress=False).tokens["itm"]
    got = score_pairs(made, "itm", tokens, every, EvaluationConfig(rows=rows), progress=False)
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
    vectors = gallery.vectors["itc"]
    corrected = normalised(vectors.products(), vectors, vectors, EvaluationConfig().bank_beta)
    assert plain.banked is None
    assert banked.first == plain.first
    assert banked.banked == retrieval_metrics(corrected, dataset.text_image)
    assert banked.banked != banked.first
    images, texts = top_candidates(corrected, 2)
    second = score_pairs(made, "itm", gallery.tokens["itm"], images | texts, EvaluationConfig(), progress=False)
    second = second + vectors.scale * corrected
    assert banked.reranked == reranked_metrics(corrected, second, images, texts, dataset.text_image)
    assert "and bank" in banked.table()


def test_the_ceiling_is_the_share_of_queries_with_a_positive_among_their_candidates(dataset: EvaluationSet) -> None:
    """Some captions of the set are equal, so the first stage has ties."""
    first = embed(model(two_stream), dataset, 4, progress=False).vectors["itc"].products()
    owned = dataset.text_image[None] == torch.arange(dataset.num_images)[:, None]
    for k in (1, 2, 3, 99):
        images, texts = top_candidates(first, k)
        found = {"image to text": (images & owned).any(1), "text to image": (texts & owned).any(0)}
        expected = {side: 100 * float(hits.double().mean()) for side, hits in found.items()}
        assert ceilings(first, dataset.text_image, k) == pytest.approx(expected)


def test_the_smallest_k_reaches_the_ceiling_and_one_less_does_not(dataset: EvaluationSet) -> None:
    first = embed(model(two_stream), dataset, 4, progress=False).vectors["itc"].products()
    k = smallest_k(first, dataset.text_image, 0.7)
    assert min(ceilings(first, dataset.text_image, k).values()) >= 70
    assert k == 1 or min(ceilings(first, dataset.text_image, k - 1).values()) < 70


def test_what_ties_with_the_last_candidate_is_one_too() -> None:
    scores = torch.tensor([[3.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    images, texts = top_candidates(scores, 2)
    assert images.tolist() == [[True, True, True, False], [True] * 4]
    assert top_candidates(scores, 1)[1].tolist() == [[True, True, True, True], [False, False, False, True]]
    assert texts.all()


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


def test_captions_longer_than_the_model_allows_are_cut_counted_and_reported(dataset: EvaluationSet) -> None:
    lengths = [len(dataset.dataset.tokenizer(text, 99)[0]) for text in dataset.captions]
    assert dataset.num_truncated == 0
    config = replace(dataset.dataset.config, max_length=5)
    short = EvaluationSet(config, dataset.folder, dataset.dataset.tokenizer)
    assert short.num_truncated == sum(length > 5 for length in lengths) > 0
    assert max(len(batch.text_ids[0]) for batch in short.text_batches(64)) == 5
    report = evaluate(model(two_stream), short, EvaluationConfig(k=0), progress=False)
    assert f"{short.num_truncated} captions are longer than data.max_length and were cut" in report.table()
    assert "cut" not in evaluate(model(two_stream), dataset, EvaluationConfig(k=0), progress=False).table()


def test_an_empty_gallery_is_refused(dataset: EvaluationSet) -> None:
    with pytest.raises(DataError, match="limit of 0 pictures leaves an empty gallery"):
        EvaluationSet(dataset.dataset.config, dataset.folder, dataset.dataset.tokenizer, limit=0)


def test_a_split_with_a_picture_without_captions_is_refused(dataset: EvaluationSet) -> None:
    """The writer refuses one; here another tool has emptied the list in the tar."""
    shard = dataset.folder / "shard-000000.tar"
    data = shard.read_bytes()
    start = data.index(b'"captions": [') + len(b'"captions": [')
    end = data.index(b"]}", start)
    shard.write_bytes(data[:start] + b" " * (end - start) + data[end:])
    with pytest.raises(DataError, match="no caption"):
        EvaluationSet(dataset.dataset.config, dataset.folder, dataset.dataset.tokenizer)


def test_a_k_beyond_the_gallery_takes_all_of_it(dataset: EvaluationSet) -> None:
    report = evaluate(model(two_stream), dataset, EvaluationConfig(k=10_000), progress=False)
    assert report.k == dataset.num_texts
    assert report.pairs == dataset.num_images * dataset.num_texts
    assert report.reranked == evaluate(model(two_stream), dataset, EvaluationConfig(full=True), progress=False).full


def test_a_first_stage_over_other_pictures_is_refused(dataset: EvaluationSet) -> None:
    fewer = EvaluationSet(dataset.dataset.config, dataset.folder, dataset.dataset.tokenizer, limit=5)
    with pytest.raises(ValueError, match="does not hold the same pictures"):
        evaluate(model(two_stream), dataset, EvaluationConfig(), first_stage=(model(two_stream), fewer), progress=False)


def test_intervals_hold_the_figures_and_a_gain_is_that_of_two_stages(dataset: EvaluationSet) -> None:
    report = evaluate(model(two_stream), dataset, EvaluationConfig(k=2, resamples=300), progress=False)
    for stage in ("first", "reranked"):
        low, high = report.intervals[stage]["all"]["rsum"]
        assert low < getattr(report, stage)["all"]["rsum"] < high
    low, high = report.gains["reranked over first"]["all"]["rsum"]
    assert low <= report.reranked["all"]["rsum"] - report.first["all"]["rsum"] <= high
    assert "95 % intervals, gain of reranked over first" in report.table()
    assert not evaluate(model(two_stream), dataset, EvaluationConfig(resamples=0), progress=False).intervals
