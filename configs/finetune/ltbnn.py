"""LTBNN: learning two-branch neural networks (Wang 2018, arXiv 1704.03470).

Two layers on each side, Euclidean distance, the ten worst rivals, and captions of one picture kept together.

    accelerate launch -m pretrain configs/finetune/ltbnn.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: Flickr30K or COCO as indexed shards with 36 regions a picture. Published, with VGG-19 and Fisher vectors:
Flickr30K TR/IR R@1 43.2/31.7. Not reproduced here: docs/survey.md has what was measured on other data.

Deliberately different: tokens in place of fixed vectors, mean over them after the layers; no batch norm; both
directions weigh the same.
"""

from typing import Any

from configs import matching
from configs.facts import Matching
from configs.matching import Stem
from vlp.config import lazy
from vlp.objectives.ranking import Ranking
from vlp.pooling.tokens import MeanPool
from vlp.similarity.few_vectors import Euclidean, OneToken
from vlp.similarity.token_pairs import TokenSimilarity
from vlp.training import TrainConfig

MATCHING = Matching(
    name="LTBNN",
    paper="1704.03470",
    row="LTBNN",
    family="global",
    shape="two layers a side, distance, ten worst rivals, structure between captions",
    index="distance",
)


def parts(stem: Stem, easy_steps: int = 1000) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) on any two encoders."""
    heads = {
        side: matching.chain(
            stem.adapter(side, hidden=2 * stem.embed_dim, dropout=0.5), lazy(MeanPool)(), lazy(OneToken)()
        )
        for side in ("image", "text")
    }
    model = stem.model(match=lazy(TokenSimilarity)(scorer=lazy(Euclidean)(), **heads))
    rank = lazy(Ranking)(similarity="match", margin=0.05, negatives=10, intra_text=0.05, easy_steps=easy_steps)
    return model, {"rank": rank}


def config() -> TrainConfig:
    """Published recipe on region features."""
    return matching.paper("ltbnn", parts(matching.PAPER), lr=1e-4, epochs=20, batch_size=1000, captions=2)


def tiny() -> TrainConfig:
    """On the synthetic world."""
    return matching.tiny("ltbnn", parts(matching.WORLD, easy_steps=100), captions=2)


def frozen() -> TrainConfig:
    """On frozen tokens of Flickr8k."""
    return matching.frozen("ltbnn", parts(matching.FROZEN, easy_steps=100), captions=2)
