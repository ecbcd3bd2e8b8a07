"""SCAN: stacked cross attention (Lee 2018, arXiv 1803.08024), here the words reading the regions.

Every word reads the regions, is compared with what it read, and the mean over the words is the score.

    accelerate launch -m pretrain configs/finetune/scan.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: Flickr30K or COCO as indexed shards with 36 regions a picture. Published for this direction and mean: Flickr30K
TR/IR R@1 61.8/45.8; the survey's 67.4/48.6 averages two models. Not reproduced here: docs/survey.md has what was
measured on other data.

Deliberately different: the loss is a mean over the pairs; a warm-up with all rivals, without which hinges of the
hardest can collapse.
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
    name="SCAN",
    paper="1803.08024",
    row="SCAN",
    family="local",
    shape="words read regions, mean of cosines, hardest negative",
    caveat="the survey's figure averages two models; one direction alone: 61.8/45.8 on Flickr30K",
)


def parts(stem: Stem, easy_steps: int = 1000) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) on any two encoders."""
    model = stem.model(match=matching.tokens(stem, lazy(StackedAttention)(direction="text", sharpness=9.0)))
    return model, {"rank": lazy(Ranking)(similarity="match", easy_steps=easy_steps, two_pass=True)}


def config() -> TrainConfig:
    """Published recipe on region features."""
    return matching.paper("scan", parts(matching.PAPER))


def tiny() -> TrainConfig:
    """On the synthetic world."""
    return matching.tiny("scan", parts(matching.WORLD, easy_steps=100))


def frozen() -> TrainConfig:
    """On frozen tokens of Flickr8k."""
    return matching.frozen("scan", parts(matching.FROZEN, easy_steps=100))
