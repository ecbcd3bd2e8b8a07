"""PVSE: polysemous embeddings, K for each item (Song 2019, arXiv 1906.04402).

K attention heads read each side, each adds to the whole one reading of it; the best of the K x K pairs is the score.
The heads are kept apart (diversity), the sides together (MMD).

    accelerate launch -m pretrain configs/finetune/pvse.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: Flickr30K or COCO as indexed shards with 36 regions a picture. Published with ResNet-152 and K = 2: COCO 5K
TR/IR R@1 45.2/32.4. Not reproduced here: docs/survey.md has what was measured on other data.

Deliberately different: the global vector is a linear layer over the mean of the tokens on both sides; a warm-up with
all rivals.
"""

from typing import Any

from configs import matching
from configs.facts import Matching
from configs.matching import Stem
from vlp.config import lazy
from vlp.objectives.ranking import Ranking
from vlp.objectives.spread import SetSpread
from vlp.pooling.pie import PIE
from vlp.similarity.few_vectors import BestOfSets
from vlp.similarity.token_pairs import TokenSimilarity
from vlp.training import TrainConfig

MATCHING = Matching(
    name="PVSE",
    paper="1906.04402",
    family="global",
    shape="K embeddings an item, best of K x K, hardest negative, diversity, MMD",
    index="sets of K",
)


def parts(stem: Stem, easy_steps: int = 1000) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) on any two encoders."""
    width = stem.embed_dim
    heads = {
        side: matching.chain(stem.adapter(side), lazy(PIE)(width=width, embed_dim=width, count=2))
        for side in ("image", "text")
    }
    model = stem.model(match=lazy(TokenSimilarity)(scorer=lazy(BestOfSets)(), **heads))
    return model, {
        "rank": lazy(Ranking)(similarity="match", margin=0.1, easy_steps=easy_steps),
        "spread": lazy(SetSpread)(),
    }


def config() -> TrainConfig:
    """Published recipe on region features."""
    return matching.paper("pvse", parts(matching.PAPER))


def tiny() -> TrainConfig:
    """On the synthetic world."""
    return matching.tiny("pvse", parts(matching.WORLD, easy_steps=100))


def frozen() -> TrainConfig:
    """On frozen tokens of Flickr8k."""
    return matching.frozen("pvse", parts(matching.FROZEN, easy_steps=100))
