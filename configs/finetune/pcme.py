"""PCME: every item a Gaussian, every pair a probability (Chun 2021, arXiv 2101.05068).

A mean of length 1 and a spread for each item; the probability of a match is the mean over pairs of samples.

    accelerate launch -m pretrain configs/finetune/pcme.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: Flickr30K or COCO as indexed shards with 36 regions a picture. Published with ResNet-152: COCO 5K TR/IR R@1
44.2/31.9. Not reproduced here: docs/survey.md has what was measured on other data.

Deliberately different: evaluation compares the means, so that no figure hangs on a draw; the bottleneck takes the
spread for what it is sampled with.
"""

from typing import Any

from configs import matching
from configs.facts import Matching
from configs.matching import Stem
from vlp.config import lazy
from vlp.objectives.pair_loss import PairLoss
from vlp.objectives.spread import Bottleneck
from vlp.pooling.pie import GaussianPool
from vlp.similarity.few_vectors import MatchProbability
from vlp.similarity.token_pairs import TokenSimilarity
from vlp.training import TrainConfig

MATCHING = Matching(
    name="PCME",
    paper="2101.05068",
    row="PCME",
    family="global",
    shape="mean and spread, match probability, soft contrast, VIB",
    index="distance",
)


def parts(stem: Stem) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) on any two encoders."""
    width = stem.embed_dim
    heads = {
        side: matching.chain(stem.adapter(side), lazy(GaussianPool)(width=width, embed_dim=width))
        for side in ("image", "text")
    }
    model = stem.model(match=lazy(TokenSimilarity)(scorer=lazy(MatchProbability)(), **heads))
    return model, {"pair": lazy(PairLoss)(), "vib": lazy(Bottleneck)()}


def config() -> TrainConfig:
    """Published recipe on region features."""
    return matching.paper("pcme", parts(matching.PAPER))


def tiny() -> TrainConfig:
    """On the synthetic world."""
    return matching.tiny("pcme", parts(matching.WORLD))


def frozen() -> TrainConfig:
    """On frozen tokens of Flickr8k."""
    return matching.frozen("pcme", parts(matching.FROZEN))
