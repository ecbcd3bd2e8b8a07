"""CAAN: context-aware attention (Zhang 2020, CVPR).

A fragment weighs as much as the other side and its own side say: affinities across, and their products within.

    accelerate launch -m pretrain configs/finetune/caan.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: Flickr30K or COCO as indexed shards with 36 regions a picture. Published: Flickr30K TR/IR R@1 70.1/52.8, COCO 5K
52.5/41.2. Not reproduced here: docs/survey.md has what was measured on other data.

Deliberately different: the paper has no released code; how the affinities are brought to scale is this project's
reading.
"""

from typing import Any

from configs import matching
from configs.facts import Matching
from configs.matching import Stem
from vlp.config import lazy
from vlp.objectives.ranking import Ranking
from vlp.similarity.second_order import SecondOrderAttention
from vlp.training import TrainConfig

MATCHING = Matching(
    name="CAAN",
    paper="CVPR 2020",
    family="local",
    shape="first and second-order affinities weigh both sides, hardest negative",
)


def parts(stem: Stem, easy_steps: int = 1000) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) on any two encoders."""
    model = stem.model(match=matching.tokens(stem, lazy(SecondOrderAttention)(width=stem.embed_dim)))
    return model, {"rank": lazy(Ranking)(similarity="match", easy_steps=easy_steps, two_pass=True)}


def config() -> TrainConfig:
    """Published recipe on region features."""
    return matching.paper("caan", parts(matching.PAPER))


def tiny() -> TrainConfig:
    """On the synthetic world."""
    return matching.tiny("caan", parts(matching.WORLD, easy_steps=100))


def frozen() -> TrainConfig:
    """On frozen tokens of Flickr8k."""
    return matching.frozen("caan", parts(matching.FROZEN, easy_steps=100))
