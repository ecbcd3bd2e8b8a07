"""PCME++: the distance of two Gaussians in closed form (Chun 2024, arXiv 2305.18171).

PCME without samples: the expected squared distance of two Gaussians is a distance of means plus both spreads, and so
can be indexed; rivals above the own pair count a little as positives.

    accelerate launch -m pretrain configs/finetune/pcmepp.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: Flickr30K or COCO as indexed shards with 36 regions a picture. Published figures are those of CLIP encoders, not
of this stem. Not reproduced here: docs/survey.md has what was measured on other data.

Deliberately different: no mixed samples (mixup, CutMix) and no generalised pooling of the spread.
"""

from typing import Any

from configs import matching
from configs.facts import Matching
from configs.matching import Stem
from vlp.config import lazy
from vlp.objectives.pair_loss import PairLoss
from vlp.objectives.spread import Bottleneck
from vlp.pooling.pie import GaussianPool
from vlp.similarity.closed_form import GaussianSimilarity
from vlp.training import TrainConfig

MATCHING = Matching(
    name="PCME++",
    paper="2305.18171",
    family="global",
    shape="mean and spread, closed-form distance, pair loss with pseudo-positives",
    index="inner product",
)


def parts(stem: Stem) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) on any two encoders."""
    width = stem.embed_dim
    # The second token is a log variance here; PCME's -4 is of a deviation. From exp(-4) a dimension the spreads are
    # larger than all distances of means, and the pull of pairs that should be near draws all means to one point.
    heads = {
        side: matching.chain(stem.adapter(side), lazy(GaussianPool)(width=width, embed_dim=width, initial=-8.0))
        for side in ("image", "text")
    }
    model = stem.model(itc=lazy(GaussianSimilarity)(**heads))
    pair = lazy(PairLoss)(similarity="itc", pseudo=0.1)
    return model, {"pair": pair, "vib": lazy(Bottleneck)(similarity="itc", kind="variance", weight=1e-4)}


def config() -> TrainConfig:
    """Published recipe on region features."""
    return matching.paper("pcmepp", parts(matching.PAPER), lr=5e-4, epochs=25, weight_decay=1e-4)


def tiny() -> TrainConfig:
    """On the synthetic world."""
    return matching.tiny("pcmepp", parts(matching.WORLD))


def frozen() -> TrainConfig:
    """On frozen tokens of Flickr8k."""
    return matching.frozen("pcmepp", parts(matching.FROZEN))
