"""Unified-VSE: every part of a caption has an embedding (Wu 2019, arXiv 1904.05521).

Beside the caption its objects, its attributed objects and its relations each rank the picture above others.

    accelerate launch -m pretrain configs/finetune/unified_vse.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: indexed shards with 36 regions a picture, whose captions say what their words speak of (json "nodes" and
"phrases"), which a scene graph parser writes; the synthetic world has them. Not reproduced here: docs/survey.md has
what was measured there.

Deliberately different: no made-up wrong components; a component's vector is the mean of its words as the caption's
encoder reads them.
"""

from typing import Any

from configs import matching
from configs.facts import Matching
from configs.matching import Stem
from vlp.config import lazy
from vlp.objectives.components import ComponentRanking
from vlp.objectives.ranking import Ranking
from vlp.pooling.tokens import MeanPool
from vlp.training import TrainConfig

MATCHING = Matching(
    name="Unified-VSE",
    paper="1904.05521",
    family="global",
    shape="mean, cosine, hardest negative for captions and for their components",
    index="inner product",
)


def parts(stem: Stem, easy_steps: int = 1000) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) on any two encoders."""
    model = stem.model(itc=matching.vector(stem, lazy(MeanPool)(), lazy(MeanPool)()))
    return model, {"rank": lazy(Ranking)(easy_steps=easy_steps), "components": lazy(ComponentRanking)(weight=0.5)}


def config() -> TrainConfig:
    """Published recipe on region features."""
    run = matching.paper("unified_vse", parts(matching.PAPER))
    run.data.use_graph = True
    return run


def tiny() -> TrainConfig:
    """On the synthetic world."""
    return matching.tiny("unified_vse", parts(matching.WORLD, easy_steps=100), use_graph=True)
