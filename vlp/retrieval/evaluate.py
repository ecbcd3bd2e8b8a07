"""Image-text retrieval of a model over an evaluation set: first stage, re-ranking, and what each is worth."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from vlp.data.evaluation import EvaluationSet
from vlp.model import VLModel
from vlp.retrieval.bank import normalised
from vlp.retrieval.config import EvaluationConfig
from vlp.retrieval.embed import Gallery, Vectors, embed
from vlp.retrieval.folds import fold_pairs
from vlp.retrieval.judged import read_judged, report_judged
from vlp.retrieval.ranking import Ranking, Staged
from vlp.retrieval.report import Report
from vlp.retrieval.rerank import score_pairs
from vlp.retrieval.shares import Shares
from vlp.retrieval.shortlist import ceilings, smallest_k
from vlp.retrieval.stages import first_of, stages_of
from vlp.retrieval.summary import summarise
from vlp.similarity.kinds import comparable


@dataclass
class _Ranker:
    """A model with its gallery."""

    model: VLModel
    gallery: Gallery
    config: EvaluationConfig
    shares: Shares
    progress: bool

    def scores(self, name: str, pairs: Tensor | None = None) -> Tensor:
        """(N, C) by a similarity. With `pairs` only there and zero elsewhere, unless vectors give all at once."""
        if name in self.gallery.vectors:
            return self.gallery.vectors[name].products()
        if pairs is None:
            pairs = torch.ones(self.gallery.num_images, self.gallery.num_texts, dtype=torch.bool)
        return score_pairs(self.model, name, self.gallery.tokens[name], pairs, self.config, self.progress, self.shares)

    def sides(self, name: str | None) -> Vectors | None:
        """Rows of length 1 whose products compare pictures with pictures and captions with captions."""
        if name is None or name not in self.gallery.vectors:
            return None
        part, vectors = self.model.similarities[name], self.gallery.vectors[name]
        return Vectors(comparable(part, vectors.image).cpu(), comparable(part, vectors.text).cpu(), 1.0)

    def scale(self, name: str) -> float:
        """What makes a score of `scores` a logit."""
        return self.gallery.vectors[name].scale if name in self.gallery.vectors else 1.0


@torch.inference_mode()
def evaluate(
    model: VLModel,
    dataset: EvaluationSet,
    config: EvaluationConfig,
    device: torch.device | str = "cpu",
    first_stage: tuple[VLModel, EvaluationSet] | None = None,
    bank: EvaluationSet | None = None,
    progress: bool = True,
    shares: Shares | None = None,
) -> Report:
    """Retrieve both ways over `dataset`.

    The first stage is a similarity of the model, or of `first_stage` (another model over the same pictures): it
    shortlists k items for each query, which a second similarity orders anew (`retrieval/stages.py` says which). A model
    without a first stage, or `config.full`, has every pair scored by the second one. `bank` holds training queries that
    correct vectors (`retrieval/bank.py`). Scores are ranked as fp32 logits. With `shares` all processes work together
    and get the same report, whatever their number. The model's training mode is restored. Raises ValueError where the
    model has nothing to rank with, or a score is not finite.
    """
    training = model.training
    model.eval()
    try:
        return _evaluate(model, dataset, config, device, first_stage, bank, progress, shares or Shares())
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
    shares: Shares,
) -> Report:
    started, size = time.perf_counter(), config.batch_size
    # What can be wrong with the request is found before hours of encoding.
    stages = stages_of(model, config, shortlisted=first_stage is not None)
    judged = read_judged(config, dataset)
    gallery = embed(model, dataset, size, device, progress, stages.names(), shares)
    own = ranker = _Ranker(model, gallery, config, shares, progress)
    name = stages.first
    if first_stage is not None:
        other, same = first_stage[0].eval(), _same_pictures(first_stage[1], dataset)
        name = first_of(other, config)
        ranker = _Ranker(other, embed(other, same, size, device, progress, [name], shares), config, shares, progress)
    asked = None
    if bank is not None and name is not None:
        asked = _vectors(name, embed(ranker.model, bank, size, device, progress, [name], shares))
    report = Report(str(dataset.folder), dataset.num_images, dataset.num_texts, truncated=dataset.num_truncated)
    encoded = time.perf_counter()
    rankings: dict[str, Ranking] = {}
    first = logits = None
    if name is not None:
        report.first_by, first = name, ranker.scores(name)
        rankings["first"] = Ranking(first)
        if asked is not None:
            first = normalised(first, ranker.gallery.vectors[name], asked, config.bank_beta)
            rankings["banked"] = Ranking(first)
        logits = ranker.scale(name) * first
    if stages.second is not None:
        rankings |= _second_stage(report, own, stages.second, first, logits, dataset.text_image)
    report.encode_seconds, report.score_seconds = encoded - started, time.perf_counter() - encoded
    summarise(report, rankings, dataset.text_image, config)
    sides = ranker.sides(name) if judged.ratings else None
    report_judged(report, rankings, dataset.text_image, judged, sides, config.resamples)
    return report


def _second_stage(
    report: Report, ranker: _Ranker, name: str, first: Tensor | None, logits: Tensor | None, text_image: Tensor
) -> dict[str, Ranking]:
    """Every pair by the second similarity, or the candidates of a first stage ordered anew."""
    config = ranker.config
    if first is None or logits is None or config.full:
        second = ranker.scores(name)
        report.second_by, report.pairs = name, second.numel()
        return {"full": Ranking(second)}
    if not config.k and config.wanted_ceiling is None:
        return {}
    wanted = config.k if config.wanted_ceiling is None else smallest_k(first, text_image, config.wanted_ceiling)
    stage = Staged.of(first, min(wanted, max(first.shape)))
    pairs = stage.pairs()
    if config.fold is not None:
        pairs = pairs | fold_pairs(first, text_image, config.fold, stage.k)
    second = ranker.scale(name) * ranker.scores(name, pairs) + config.mix * logits
    report.second_by, report.k, report.mix, report.pairs = name, stage.k, config.mix, int(pairs.sum())
    report.ceiling = ceilings(first, text_image, stage.k)
    return {"reranked": Ranking(second, stage)}


def _vectors(name: str, gallery: Gallery) -> Vectors:
    if name not in gallery.vectors:
        raise ValueError(
            f"a bank of queries corrects vectors, and {name!r} of this model gives none; set evaluation.first to a "
            "similarity that does, or evaluation.bank to ''"
        )
    return gallery.vectors[name]


def _same_pictures(other: EvaluationSet, dataset: EvaluationSet) -> EvaluationSet:
    if other.keys != dataset.keys or other.captions != dataset.captions:
        raise ValueError(f"the first stage's set {other.folder} does not hold the same pictures as {dataset.folder}")
    return other
