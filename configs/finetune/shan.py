"""SHAN: step-wise hierarchical alignment (Ji 2021, arXiv 2106.06509).

Fragments with fragments, wholes with fragments, wholes with wholes, one after another; the sum is the score.

    accelerate launch -m pretrain configs/finetune/shan.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: Flickr30K or COCO as indexed shards with 36 regions a picture. Published: Flickr30K TR/IR R@1 74.6/55.3. Not
reproduced here: docs/survey.md has what was measured on other data.

Deliberately different: the paper has no released code; the mixture of a whole with what was read for it is a gate per
dimension here.
"""

from typing import Any

from configs import matching
from configs.facts import Matching
from configs.matching import Stem
from vlp.config import lazy
from vlp.objectives.ranking import Ranking
from vlp.similarity.stepwise import StepwiseAlignment
from vlp.training import TrainConfig

MATCHING = Matching(
    name="SHAN",
    paper="2106.06509",
    row="SHAN",
    family="relation-aware",
    shape="fragments, then wholes and fragments, then wholes; hardest negative",
)


def parts(stem: Stem, easy_steps: int = 1000) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) on any two encoders."""
    model = stem.model(match=matching.tokens(stem, lazy(StepwiseAlignment)(width=stem.embed_dim)))
    return model, {"rank": lazy(Ranking)(similarity="match", easy_steps=easy_steps, two_pass=True)}


def config() -> TrainConfig:
    """Published recipe on region features."""
    return matching.paper("shan", parts(matching.PAPER))


def tiny() -> TrainConfig:
    """On the synthetic world."""
    return matching.tiny("shan", parts(matching.WORLD, easy_steps=100))


def frozen() -> TrainConfig:
    """On frozen tokens of Flickr8k."""
    return matching.frozen("shan", parts(matching.FROZEN, easy_steps=100))
