"""SAN: saliency-guided attention (Ji 2019, ICCV).

What stands out in the picture weighs its regions, and guides which words count.

    accelerate launch -m pretrain configs/finetune/san.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: Flickr30K or COCO as indexed shards with 36 regions a picture. Published figures (Flickr30K TR/IR R@1 75.5/60.1)
are doubted by later lists and are no target. Not reproduced here: docs/survey.md has what was measured on other data.

Deliberately different: no detector trained on saliency maps: saliency is learned from the pairs alone.
"""

from typing import Any

from configs import matching
from configs.facts import Matching
from configs.matching import Stem
from vlp.config import lazy
from vlp.objectives.ranking import Ranking
from vlp.similarity.saliency import SaliencyAttention
from vlp.training import TrainConfig

MATCHING = Matching(
    name="SAN",
    paper="ICCV 2019",
    row="SAN",
    family="local",
    shape="saliency weighs regions and guides words, hardest negative",
    caveat="the survey's figure is doubted by later lists",
)


def parts(stem: Stem, easy_steps: int = 1000) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) on any two encoders."""
    model = stem.model(match=matching.tokens(stem, lazy(SaliencyAttention)(width=stem.embed_dim)))
    return model, {"rank": lazy(Ranking)(similarity="match", easy_steps=easy_steps, two_pass=True)}


def config() -> TrainConfig:
    """Published recipe on region features."""
    return matching.paper("san", parts(matching.PAPER))


def tiny() -> TrainConfig:
    """On the synthetic world."""
    return matching.tiny("san", parts(matching.WORLD, easy_steps=100))


def frozen() -> TrainConfig:
    """On frozen tokens of Flickr8k."""
    return matching.frozen("san", parts(matching.FROZEN, easy_steps=100))
