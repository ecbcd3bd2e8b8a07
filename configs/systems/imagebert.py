"""ImageBERT: cross-modal pre-training with large-scale weak-supervised data (Qi 2020, arXiv 2001.07966).

One stream: BERT-base reads words and detector regions with 5 numbers of their boxes. MLM, the class of a hidden region,
the regression of its feature, and matching; in two stages, first on data gathered from the web, then on CC and SBU.

    accelerate launch -m pretrain configs/systems/imagebert.py data.train=SHARDS model.fusion.weights=BERT

Data: LAIT (10M pairs, not public), then CC3M and SBU, with 100 regions of 2048 numbers and 1601 classes each.
Published after fine-tuning: COCO 5K TR/IR R@1 66.4/50.5, Flickr30K 87.0/73.1. Not reproduced here: that takes those
pairs.

Deliberately different: regions have no position numbers of their own (the paper gives all the same); the
regression head shares the region embedding's weights. Stage two is this config with init=STAGE_ONE.
"""

from typing import Any

from configs import world
from configs.facts import System
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.objectives.itm import ITM
from vlp.objectives.masked_regions import MaskedRegions
from vlp.objectives.mlm import MLM
from vlp.objectives.negatives import RandomNegatives
from vlp.retrieval.config import EvaluationConfig
from vlp.training import TrainConfig
from vlp.vision.regions import RegionEmbedding

SYSTEM = System(
    name="ImageBERT",
    paper="2001.07966",
    shape="one stream over regions",
    data="LAIT 10M, then CC3M and SBU; regions and their classes",
    reason="The paper gives no count",
)


def parts(
    width: int, layers: int, heads: int, feature_width: int, classes: int, words: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) at any size."""
    vision = lazy(RegionEmbedding)(feature_width=feature_width, width=width, box_form=5, dropout=0.0)
    model = world.one_stream(vision, words, width, layers, heads)
    objectives = {
        "itm": lazy(ITM)(negatives=lazy(RandomNegatives)()),
        "mlm": lazy(MLM)(width=width, **words),
        "mrm": lazy(MaskedRegions)(width=width, feature_width=feature_width, classes=classes, target="label"),
    }
    return model, objectives


def config() -> TrainConfig:
    """Published size: BERT-base."""
    model, objectives = parts(768, 12, 12, 2048, 1601, world.BERT)
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(max_length=44, batch_size=384, workers=8, use_regions=True, use_pictures=False),
        optim=OptimConfig(lr=1e-4, min_lr=0.0, weight_decay=0.01, warmup_steps=10000),
        run=RunConfig(out="runs/imagebert", steps=300000, precision="bf16", checkpoint_every=5000),
        evaluation=EvaluationConfig(full=True, limit=200),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the regions of the synthetic world."""
    sizes = (world.WIDTH, world.LAYERS, world.HEADS, world.FEATURES, world.CLASSES)
    return world.tiny("imagebert", *parts(*sizes, world.WORDS), use_regions=True, use_pictures=False)
