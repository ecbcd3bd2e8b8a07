"""DIME: dynamic modality interaction (Qu 2021, SIGIR): each pair finds its own way through four kinds of cells.

Three layers of cells (keep, within the modality, across, guided by the whole), and routers that share out what each
cell gives; pairs of like meaning are to take like ways.

    accelerate launch -m pretrain configs/finetune/dime.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: Flickr30K or COCO as indexed shards with 36 regions a picture. Published, image to text alone: Flickr30K TR/IR R@1
77.4/60.1; two models averaged: 81.0/63.6. Not reproduced here: docs/survey.md has what was measured on other data.

Deliberately different: one model, whose regions are routed (on frozen tokens the words, 14 where there are 64 patches);
no batch norms; a recurrent text encoder in place of BERT on this stem; no doubled negatives; a warm-up with all rivals.
"""

from typing import Any

from configs import matching
from configs.facts import Matching
from configs.matching import Stem
from vlp.config import lazy
from vlp.objectives.paths import PathRegulariser
from vlp.objectives.ranking import Ranking
from vlp.similarity.routed import RoutedInteraction
from vlp.similarity.token_pairs import TokenSimilarity
from vlp.training import TrainConfig

MATCHING = Matching(
    name="DIME",
    paper="SIGIR 2021",
    row="DIME",
    family="self-adaptive",
    shape="routed cells over regions (or words), hardest negative, path regulariser",
    caveat="the survey's figure averages two models; image to text alone: 77.4/60.1 on Flickr30K",
)


def parts(stem: Stem, easy_steps: int = 1000, width: int = 256, direction: str = "image") -> tuple[Any, dict[str, Any]]:
    """(model, objectives) on any two encoders."""
    heads = {side: stem.adapter(side, embed_dim=width, unit=True) for side in ("image", "text")}
    match = lazy(TokenSimilarity)(scorer=lazy(RoutedInteraction)(width=width, direction=direction), **heads)
    return stem.model(match=match), {
        "rank": lazy(Ranking)(similarity="match", easy_steps=easy_steps, two_pass=True),
        "paths": lazy(PathRegulariser)(weight=0.01),
    }


def config() -> TrainConfig:
    """Published recipe on region features."""
    return matching.paper("dime", parts(matching.PAPER), batch_size=32)


def tiny() -> TrainConfig:
    """On the synthetic world."""
    return matching.tiny("dime", parts(matching.WORLD, easy_steps=300, width=64))


def frozen() -> TrainConfig:
    """On frozen tokens of Flickr8k."""
    return matching.frozen("dime", parts(matching.FROZEN, easy_steps=300, width=128, direction="text"), batch_size=32)
