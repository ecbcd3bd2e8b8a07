"""SAEM: self-attention embeddings (Wu 2019, ACM MM 2019).

One transformer layer over the regions; convolutions over one, two and three words.

    accelerate launch -m pretrain configs/finetune/saem.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: Flickr30K or COCO as indexed shards with 36 regions a picture. Published: Flickr30K TR/IR R@1 69.1/52.4. Not
reproduced here: docs/survey.md has what was measured on other data.

Deliberately different: the convolutions' channels are projected before the largest is taken, not after; no penalty on
the weights' norms.
"""

from typing import Any

from configs import matching
from configs.facts import Matching
from configs.matching import Stem
from vlp.config import lazy
from vlp.objectives.angular import Angular
from vlp.objectives.ranking import Ranking
from vlp.pooling.tokens import MaxPool, MeanPool
from vlp.reasoning.adapter import TokenAdapter
from vlp.reasoning.ngrams import NGrams
from vlp.reasoning.transformer import TransformerReasoner
from vlp.similarity.vector import VectorSimilarity
from vlp.training import TrainConfig

MATCHING = Matching(
    name="SAEM",
    paper="ACM MM 2019",
    row="SEAM",
    family="global",
    shape="transformer over regions, n-grams over words, cosine, hardest and angular",
    index="inner product",
)


def parts(stem: Stem, easy_steps: int = 1000) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) on any two encoders."""
    width = stem.embed_dim
    image = [lazy(TransformerReasoner)(width=width, heads=16, hidden=2 * width), lazy(MeanPool)()]
    text = [lazy(NGrams)(width=width, channels=width), lazy(TokenAdapter)(width=3 * width, embed_dim=width)]
    similarity = lazy(VectorSimilarity)(
        image=matching.chain(stem.adapter("image"), *image),
        text=matching.chain(stem.adapter("text"), *text, lazy(MaxPool)()),
    )
    return stem.model(itc=similarity), {
        "rank": lazy(Ranking)(easy_steps=easy_steps),
        "angular": lazy(Angular)(weight=0.5, decay_steps=5 * easy_steps),
    }


def config() -> TrainConfig:
    """Published recipe on region features."""
    return matching.paper("saem", parts(matching.PAPER), lr=1e-4, batch_size=64)


def tiny() -> TrainConfig:
    """On the synthetic world."""
    return matching.tiny("saem", parts(matching.WORLD, easy_steps=100))


def frozen() -> TrainConfig:
    """On frozen tokens of Flickr8k."""
    return matching.frozen("saem", parts(matching.FROZEN, easy_steps=100))
