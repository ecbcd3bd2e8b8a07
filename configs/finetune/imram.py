"""IMRAM: iterative matching with recurrent attention memory (Chen 2020, arXiv 2003.03772).

Three times each fragment reads the other side and is changed by what it read; the scores of all steps and both
directions add up.

    accelerate launch -m pretrain configs/finetune/imram.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: Flickr30K or COCO as indexed shards with 36 regions a picture. Published: Flickr30K TR/IR R@1 74.1/53.9, COCO 5K
53.7/39.7. Not reproduced here: docs/survey.md has what was measured on other data.

Deliberately different: the loss is a mean over the pairs; a warm-up with all rivals.
"""

from typing import Any

from configs import matching
from configs.facts import Matching
from configs.matching import Stem
from vlp.config import lazy
from vlp.objectives.ranking import Ranking
from vlp.similarity.iterative import IterativeMatching
from vlp.training import TrainConfig

MATCHING = Matching(
    name="IMRAM",
    paper="2003.03772",
    row="IMRAM",
    family="local",
    shape="three steps of attention with a gated memory, both ways, hardest negative",
)


def parts(stem: Stem, easy_steps: int = 1000) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) on any two encoders."""
    scorer = lazy(IterativeMatching)(width=stem.embed_dim)
    model = stem.model(match=matching.tokens(stem, scorer))
    return model, {"rank": lazy(Ranking)(similarity="match", easy_steps=easy_steps, two_pass=True)}


def config() -> TrainConfig:
    """Published recipe on region features."""
    return matching.paper("imram", parts(matching.PAPER), lr=5e-4, epochs=20)


def tiny() -> TrainConfig:
    """On the synthetic world."""
    return matching.tiny("imram", parts(matching.WORLD, easy_steps=100))


def frozen() -> TrainConfig:
    """On frozen tokens of Flickr8k."""
    return matching.frozen("imram", parts(matching.FROZEN, easy_steps=100))
