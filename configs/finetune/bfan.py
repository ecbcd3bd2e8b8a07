"""BFAN: bidirectional focal attention (Liu 2019, arXiv 1909.11416).

SCAN both ways, where a fragment attends only to those fragments that matter more than the others.

    accelerate launch -m pretrain configs/finetune/bfan.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: Flickr30K or COCO as indexed shards with 36 regions a picture. Published, one model: Flickr30K TR/IR R@1
65.5/47.9; two averaged: 68.1/50.8. Not reproduced here: docs/survey.md has what was measured on other data.

Deliberately different: the loss is a mean over the pairs; a warm-up with all rivals.
"""

from typing import Any

from configs import matching
from configs.facts import Matching
from configs.matching import Stem
from vlp.config import lazy
from vlp.objectives.ranking import Ranking
from vlp.similarity.stacked_attention import StackedAttention
from vlp.training import TrainConfig

MATCHING = Matching(
    name="BFAN",
    paper="1909.11416",
    family="local",
    shape="focal attention both ways, sum of means, hardest negative",
)


def parts(stem: Stem, easy_steps: int = 1000) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) on any two encoders."""
    scorer = lazy(StackedAttention)(direction="both", sharpness=20.0, focus="prob")
    model = stem.model(match=matching.tokens(stem, scorer))
    return model, {"rank": lazy(Ranking)(similarity="match", easy_steps=easy_steps, two_pass=True)}


def config() -> TrainConfig:
    """Published recipe on region features."""
    return matching.paper("bfan", parts(matching.PAPER), epochs=15)


def tiny() -> TrainConfig:
    """On the synthetic world."""
    return matching.tiny("bfan", parts(matching.WORLD, easy_steps=100))


def frozen() -> TrainConfig:
    """On frozen tokens of Flickr8k."""
    return matching.frozen("bfan", parts(matching.FROZEN, easy_steps=100))
