"""Any similarity ranks, any other one re-ranks: pairwise ones against one call a pair, and the choice of stages."""

import pytest
import torch
from torch import nn

from tests.parts import WIDTH, one_stream, two_stream
from tests.retrieval.conftest import model
from vlp.config import lazy
from vlp.data.evaluation import EvaluationSet
from vlp.model import VLModel
from vlp.retrieval.config import EvaluationConfig
from vlp.retrieval.embed import embed
from vlp.retrieval.evaluate import evaluate
from vlp.retrieval.ranks import retrieval_metrics
from vlp.retrieval.rerank import score_pairs
from vlp.retrieval.stages import Stages, stages_of
from vlp.similarity.kinds import kind_of, pair_numbers
from vlp.similarity.late import LateInteraction
from vlp.types import Stream


class Attended(nn.Module):
    """A stacked cross attention in small: each word's attended picture against the word, softly pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def scores(self, image: Stream, text: Stream) -> torch.Tensor:
        """(B, C)."""
        products = torch.einsum("bnd,cld->bcnl", image.tokens, text.tokens)
        self.most = max(self.most, 4 * products.numel() * 4)
        share = products.masked_fill(~image.mask[:, None, :, None], float("-inf")).softmax(2)
        attended = (share * products).sum(2)
        return attended.masked_fill(~text.mask[None], 0.0).sum(2) / text.mask.sum(1)


def with_similarities(**similarities: object) -> object:
    """The two-stream system with further similarities, or without its own where they are None."""

    def system() -> dict[str, object]:
        made = two_stream()
        merged = made["model"].kwargs["similarities"] | similarities
        made["model"].kwargs["similarities"] = {name: part for name, part in merged.items() if part is not None}
        return made

    return system


LATE = lazy(LateInteraction)(image_width=WIDTH, text_width=WIDTH, embed_dim=8)


def pair_by_pair(made: VLModel, name: str, dataset: EvaluationSet) -> torch.Tensor:
    """One picture and one caption a call, padding as the batch of captions had it."""
    similarity = made.similarities[name]
    out = torch.zeros(dataset.num_images, dataset.num_texts)
    with torch.inference_mode():
        texts = list(dataset.text_batches(64))
        for i, image in enumerate(dataset.image_batches(1)):
            stream = made.encode_image(image.to("cpu"))
            for batch in texts:
                words = made.encode_text(batch.text_ids, batch.text_mask)
                for row, caption in enumerate(batch.caption_id.tolist()):
                    one = Stream(words.tokens[row : row + 1], words.mask[row : row + 1])
                    out[i, caption] = similarity.scores(stream, one)
    return out


@pytest.mark.parametrize("tile_bytes", [1, 9000, 1 << 20])
@pytest.mark.parametrize("part", [LATE, lazy(Attended)()])
def test_tiles_give_the_scores_of_single_pairs(dataset: EvaluationSet, part: object, tile_bytes: int) -> None:
    made = model(with_similarities(late=part, itc=None, itm=None))
    tokens = embed(made, dataset, 4, progress=False).tokens["late"]
    slow = pair_by_pair(made, "late", dataset)
    every = torch.ones(slow.shape) > 0
    some = torch.rand(slow.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    config = EvaluationConfig(tile_bytes=tile_bytes)
    for pairs in (every, some):
        got = score_pairs(made, "late", tokens, pairs, config, progress=False)
        torch.testing.assert_close(got[pairs], slow[pairs], rtol=1e-4, atol=1e-5)
        assert not got[~pairs].any()


@pytest.mark.parametrize("tile_bytes", [10_000, 40_000])
def test_a_tile_holds_no_more_than_it_may(dataset: EvaluationSet, tile_bytes: int) -> None:
    made = model(with_similarities(scan=lazy(Attended)(), itc=None, itm=None))
    tokens = embed(made, dataset, 9, progress=False).tokens["scan"]
    one_pair = 4 * pair_numbers(made.similarities["scan"], 17, 7)
    assert one_pair < tile_bytes
    every = torch.ones(dataset.num_images, dataset.num_texts) > 0
    score_pairs(made, "scan", tokens, every, EvaluationConfig(tile_bytes=tile_bytes), progress=False)
    assert 0 < made.similarities["scan"].most <= tile_bytes


def test_a_model_of_pairs_alone_has_every_pair_scored(dataset: EvaluationSet) -> None:
    made = model(with_similarities(late=LATE, itc=None, itm=None))
    report = evaluate(made, dataset, EvaluationConfig(), progress=False)
    assert report.first is None
    assert report.second_by == "late"
    assert report.full == retrieval_metrics(pair_by_pair(made, "late", dataset), dataset.text_image)
    assert "every pair by late" in report.table()


@pytest.mark.parametrize(("first", "second"), [("itc", "late"), ("late", "itm"), ("late", "itc"), ("itm", "itc")])
def test_any_pair_of_similarities(dataset: EvaluationSet, first: str, second: str) -> None:
    """Re-ranking everything is the second alone, without candidates it is the first alone, whichever they are."""
    made = model(with_similarities(late=LATE))
    both = EvaluationConfig(first=first, rerank=second, k=dataset.num_texts)
    reranked = evaluate(made, dataset, both, progress=False)
    assert (reranked.first_by, reranked.second_by) == (first, second)
    alone = evaluate(made, dataset, EvaluationConfig(first=second, k=0), progress=False)
    assert reranked.reranked == alone.first
    assert reranked.first == evaluate(made, dataset, EvaluationConfig(first=first, k=0), progress=False).first
    mixed = evaluate(made, dataset, EvaluationConfig(first=first, rerank=second, k=99, mix=1e6), progress=False)
    assert mixed.reranked["all"]["rsum"] == pytest.approx(reranked.first["all"]["rsum"], abs=3)


def test_the_cheapest_ranks_first_and_the_dearest_last() -> None:
    full = EvaluationConfig()
    assert stages_of(model(with_similarities(late=LATE)), full) == Stages("itc", "itm")
    assert stages_of(model(with_similarities(late=LATE, itm=None)), full) == Stages("itc", "late")
    assert stages_of(model(with_similarities(late=LATE, itc=None)), full) == Stages("late", "itm")
    assert stages_of(model(with_similarities(itm=None)), full) == Stages("itc", None)
    assert stages_of(model(one_stream), full) == Stages(None, "itm")
    assert stages_of(model(one_stream), full, shortlisted=True) == Stages(None, "itm")
    assert stages_of(model(two_stream), EvaluationConfig(first="itm")) == Stages("itm", "itc")
    assert stages_of(model(two_stream), EvaluationConfig(rerank="itc")) == Stages("itm", "itc")


def test_a_similarity_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="no similarity 'itcc'; did you mean 'itc'"):
        stages_of(model(two_stream), EvaluationConfig(first="itcc"))
    with pytest.raises(ValueError, match="no similarity to rank with"):
        stages_of(model(with_similarities(itc=None, itm=None)), EvaluationConfig())
    with pytest.raises(ValueError, match="Linear is no similarity"):
        kind_of(nn.Linear(1, 1))


def test_scores_of_another_shape_are_an_error(dataset: EvaluationSet) -> None:
    made = model(with_similarities(scan=lazy(Attended)(), itc=None, itm=None))
    scan = made.similarities["scan"]
    right = scan.scores
    scan.scores = lambda image, text: right(image, text).T
    with pytest.raises(ValueError, match=r"Attended gave scores of shape \(\d+, 9\) for 9 pictures"):
        evaluate(made, dataset, EvaluationConfig(), progress=False)


def test_a_bank_needs_vectors(dataset: EvaluationSet) -> None:
    made = model(with_similarities(late=LATE))
    with pytest.raises(ValueError, match="'late' of this model gives none"):
        evaluate(made, dataset, EvaluationConfig(first="late"), bank=dataset, progress=False)


def test_what_is_ranked_is_fp32_under_autocast(dataset: EvaluationSet) -> None:
    """Rounded to bf16, scores of different pairs would tie."""
    made = model(with_similarities(late=LATE))
    gallery = embed(made, dataset, 4, progress=False)
    every = torch.ones(dataset.num_images, dataset.num_texts) > 0
    summary = torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(0))

    def ranked() -> list[torch.Tensor]:
        late = score_pairs(made, "late", gallery.tokens["late"], every, EvaluationConfig(), progress=False)
        return [gallery.vectors["itc"].products(), late, made.similarities["itm"].log_odds(summary)]

    outside = ranked()
    with torch.autocast("cpu", torch.bfloat16):
        inside = ranked()
    for one, two in zip(outside, inside, strict=True):
        assert two.dtype is torch.float32
        assert torch.equal(one, two)
