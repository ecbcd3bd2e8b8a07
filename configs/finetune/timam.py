"""TIMAM: adversarial text-image matching (Sarafianos 2019, arXiv 1908.10534).

Cross-modal projection matching, pictures as classes of both sides, and a discriminator that must not tell the
modalities apart.

    accelerate launch -m pretrain configs/finetune/timam.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: Flickr30K or COCO as indexed shards with 36 regions a picture. Published: Flickr30K TR/IR R@1 53.1/42.6. Not
reproduced here: docs/survey.md has what was measured on other data.

Deliberately different: largest values over the tokens in place of the network's own pooling; the classes are image
ids.
"""

from typing import Any

from configs import matching
from configs.facts import Matching
from configs.matching import Stem
from vlp.config import lazy
from vlp.objectives.adversary import ModalityAdversary
from vlp.objectives.identity import Identity
from vlp.objectives.projection_matching import ProjectionMatching
from vlp.pooling.tokens import MaxPool
from vlp.training import TrainConfig

MATCHING = Matching(
    name="TIMAM",
    paper="1908.10534",
    row="TIMAM",
    family="global",
    shape="projection matching, identities, modality adversary",
    index="inner product",
)


def parts(stem: Stem, classes: int = 32_000) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) on any two encoders."""
    model = stem.model(itc=matching.vector(stem, lazy(MaxPool)(), lazy(MaxPool)(), unit=False))
    return model, {
        "cmpm": lazy(ProjectionMatching)(),
        "identity": lazy(Identity)(width=stem.embed_dim, classes=classes, unit="classes"),
        "adversary": lazy(ModalityAdversary)(width=stem.embed_dim, weight=0.1),
    }


def config() -> TrainConfig:
    """Published recipe on region features."""
    return matching.paper("timam", parts(matching.PAPER))


def tiny() -> TrainConfig:
    """On the synthetic world."""
    return matching.tiny("timam", parts(matching.WORLD, classes=60_000))


def frozen() -> TrainConfig:
    """On frozen tokens of Flickr8k."""
    return matching.frozen("timam", parts(matching.FROZEN, classes=9000))
