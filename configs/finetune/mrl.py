"""MRL: learning from noisy labels (Hu 2021, CVPR), whose robust clustering bounds what a wrong label can do.

Robust clustering over classes that both sides share, and contrast of the pairs.

    accelerate launch -m pretrain configs/finetune/mrl.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: Flickr30K or COCO as indexed shards with 36 regions a picture. Published figures are mean average precision over
category labels, not recalls. Not reproduced here: docs/survey.md has what was measured on other data.

Deliberately different: image ids in place of category labels, a learned temperature in place of 1.
"""

from typing import Any

from configs import matching
from configs.facts import Matching
from configs.matching import Stem
from vlp.config import lazy
from vlp.objectives.identity import Identity
from vlp.objectives.itc import ITC
from vlp.pooling.tokens import MeanPool
from vlp.training import TrainConfig

MATCHING = Matching(
    name="MRL",
    paper="CVPR 2021",
    family="noise",
    shape="robust clustering over pictures as classes, contrast",
    index="inner product",
    caveat="the survey describes noisy pairs, which are NCR's problem; MRL's noise is in labels",
)


def parts(stem: Stem, classes: int = 32_000) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) on any two encoders."""
    model = stem.model(itc=matching.vector(stem, lazy(MeanPool)(), lazy(MeanPool)(), temperature=0.1))
    identity = lazy(Identity)(
        width=stem.embed_dim, classes=classes, kind="robust", unit="both", temperature=0.05, weight=0.7
    )
    return model, {"identity": identity, "itc": lazy(ITC)(weight=0.3)}


def config() -> TrainConfig:
    """Published recipe on region features."""
    return matching.paper("mrl", parts(matching.PAPER))


def tiny() -> TrainConfig:
    """On the synthetic world."""
    return matching.tiny("mrl", parts(matching.WORLD, classes=60_000))


def frozen() -> TrainConfig:
    """On frozen tokens of Flickr8k."""
    return matching.frozen("mrl", parts(matching.FROZEN, classes=9000))
