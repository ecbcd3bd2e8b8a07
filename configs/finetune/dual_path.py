"""Dual-path: every picture a class of its own, then ranking (Zheng 2020, arXiv 1711.05535).

One classifier over all pictures for both sides; the ranking loss beside it.

    accelerate launch -m pretrain configs/finetune/dual_path.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: Flickr30K or COCO as indexed shards with 36 regions a picture. Published with ResNet-152: Flickr30K TR/IR R@1
55.6/39.1. Not reproduced here: docs/survey.md has what was measured on other data.

Deliberately different: both losses at once, where the paper begins with the instance loss alone; n-grams in place of
the deep text network.
"""

from typing import Any

from configs import matching
from configs.facts import Matching
from configs.matching import Stem
from vlp.config import lazy
from vlp.objectives.identity import Identity
from vlp.objectives.ranking import Ranking
from vlp.pooling.tokens import MeanPool
from vlp.reasoning.adapter import TokenAdapter
from vlp.reasoning.ngrams import NGrams
from vlp.similarity.vector import VectorSimilarity
from vlp.training import TrainConfig

MATCHING = Matching(
    name="Dual-path",
    paper="1711.05535",
    row="Dual-path",
    family="global",
    shape="convolutions over words, instance loss, ranking",
    index="inner product",
)


def parts(stem: Stem, easy_steps: int = 1000, classes: int = 32_000) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) on any two encoders."""
    width = stem.embed_dim
    text = [lazy(NGrams)(width=width, channels=width), lazy(TokenAdapter)(width=3 * width, embed_dim=width)]
    similarity = lazy(VectorSimilarity)(
        image=matching.chain(stem.adapter("image", hidden=2 * width), lazy(MeanPool)()),
        text=matching.chain(stem.adapter("text"), *text, lazy(MeanPool)()),
    )
    return stem.model(itc=similarity), {
        "identity": lazy(Identity)(width=width, classes=classes, temperature=0.05),
        "rank": lazy(Ranking)(margin=1.0, easy_steps=easy_steps),
    }


def config() -> TrainConfig:
    """Published recipe on region features."""
    return matching.paper("dual_path", parts(matching.PAPER), lr=1e-4)


def tiny() -> TrainConfig:
    """On the synthetic world."""
    return matching.tiny("dual_path", parts(matching.WORLD, easy_steps=100, classes=60_000))


def frozen() -> TrainConfig:
    """On frozen tokens of Flickr8k."""
    return matching.frozen("dual_path", parts(matching.FROZEN, easy_steps=100, classes=9000))
