"""Image-text retrieval of a model over an evaluation set: first stage, re-ranking, and what each is worth."""

import time

import torch
from torch import Tensor

from vlp.data.evaluation import EvaluationSet
from vlp.model import VLModel
from vlp.retrieval.bank import normalised
from vlp.retrieval.config import EvaluationConfig
from vlp.retrieval.embed import embed
from vlp.retrieval.ranks import count_image_to_text, count_text_to_image, reranked_metrics, retrieval_metrics
from vlp.retrieval.report import Report
from vlp.retrieval.rerank import score_pairs, top_candidates


@torch.inference_mode()
def evaluate(
    model: VLModel,
    dataset: EvaluationSet,
    config: EvaluationConfig,
    device: torch.device | str = "cpu",
    first_stage: tuple[VLModel, EvaluationSet] | None = None,
    bank: EvaluationSet | None = None,
    progress: bool = True,
) -> Report:
    """Retrieve both ways over `dataset`.

    The first stage is the model's "itc", or that of `first_stage` (another model over the same pictures): it
    shortlists k items for each query, which the fused head "itm" orders anew. A model without a first stage, or
    `config.full`, has every pair scored by the fused head. `bank` holds training queries that correct the first
    stage (`retrieval/bank.py`). Scores are ranked as fp32 logits. The model's training
    mode is restored. Raises ValueError where the model has nothing to rank with, or a score is not finite.
    """
    training = model.training
    model.eval()
    try:
        return _evaluate(model, dataset, config, device, first_stage, bank, progress)
    finally:
        model.train(training)


def _evaluate(
    model: VLModel,
    dataset: EvaluationSet,
    config: EvaluationConfig,
    device: torch.device | str,
    first_stage: tuple[VLModel, EvaluationSet] | None,
    bank: EvaluationSet | None,
    progress: bool,
) -> Report:
    started = time.perf_counter()
    gallery = embed(model, dataset, config.batch_size, device, progress)
    ranked, ranker = gallery, model
    if first_stage is not None:
        ranker = first_stage[0].eval()
        ranked = embed(ranker, _same_pictures(first_stage[1], dataset), config.batch_size, device, progress)
    first, scale = ranked.first_stage(), ranked.scale
    asked = None if bank is None else embed(ranker, bank, config.batch_size, device, progress)
    encoded = time.perf_counter()
    fused = "itm" in model.similarities
    if first is None and not fused:
        raise ValueError("the model has neither an indexable similarity 'itc' nor a fused head 'itm' to rank with")
    report = Report(
        data=str(dataset.folder),
        images=dataset.num_images,
        texts=dataset.num_texts,
        first=None if first is None else retrieval_metrics(first, dataset.text_image),
        encode_seconds=encoded - started,
    )
    if first is not None and asked is not None:
        first = normalised(first, ranked, asked, config.bank_beta)
        report.banked = retrieval_metrics(first, dataset.text_image)
    if fused and (first is None or config.full):
        second = score_pairs(
            model, gallery, torch.ones(dataset.num_images, dataset.num_texts) > 0, config.rows, progress
        )
        report.full = retrieval_metrics(second, dataset.text_image)
        report.pairs = second.numel()
    elif fused and first is not None and (config.k or config.wanted_ceiling is not None):
        k = config.k if config.wanted_ceiling is None else smallest_k(first, dataset.text_image, config.wanted_ceiling)
        images, texts = top_candidates(first, k)
        second = score_pairs(model, gallery, images | texts, config.rows, progress) + config.mix * scale * first
        report.reranked = reranked_metrics(first, second, images, texts, dataset.text_image)
        report.k, report.mix, report.pairs = k, config.mix, int((images | texts).sum())
        report.ceiling = ceilings(first, dataset.text_image, k)
    report.score_seconds = time.perf_counter() - encoded
    return report


def ceilings(first: Tensor, text_image: Tensor, k: int) -> dict[str, float]:
    """First-stage R@k in per cent: no re-ranking of k candidates can find more."""
    return {
        "image to text": 100 * float(count_image_to_text(first, text_image).hit(k).mean()),
        "text to image": 100 * float(count_text_to_image(first, text_image).hit(k).mean()),
    }


def smallest_k(first: Tensor, text_image: Tensor, wanted: float) -> int:
    """The smallest k with first-stage R@k of at least `wanted` (a share) both ways."""
    sides = (count_image_to_text(first, text_image), count_text_to_image(first, text_image))
    low, high = 1, max(first.shape)
    while low < high:
        middle = (low + high) // 2
        reached = all(float(side.hit(middle).mean()) >= wanted for side in sides)
        low, high = (low, middle) if reached else (middle + 1, high)
    return low


def _same_pictures(other: EvaluationSet, dataset: EvaluationSet) -> EvaluationSet:
    if other.keys != dataset.keys or other.captions != dataset.captions:
        raise ValueError(f"the first stage's set {other.folder} does not hold the same pictures as {dataset.folder}")
    return other
