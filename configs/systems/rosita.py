"""ROSITA: enhancing vision-and-language semantic alignments (Cui 2021, arXiv 2108.07073).

One stream: BERT-base reads words and 36 detector regions. Objects of the caption's scene graph are masked with their
attributes and relations, and regions with those that overlap them, so that only the other modality tells them: MLM,
features and classes of hidden regions; ITM with word-region transport on its pass.

    accelerate launch -m pretrain configs/systems/rosita.py data.train=SHARDS model.fusion.weights=BERT

Data: COCO, VG, CC3M and SBU as shards with 36 regions of 2048 numbers and 1601 classes, whose captions have phrases and
nodes. Published after fine-tuning: COCO 5K TR/IR R@1 71.3/54.4, Flickr30K 88.9/74.1. Not reproduced here: that takes
those pairs.

Deliberately different: every link is masked with one probability, where the paper weighs links by how often they occur
in the data; words and regions are masked in each step, in a pass each, not one of the two; regions have no attribute
classes; regression by squares; no question answering. The tiny form aligns words and regions as they enter the fusion.
"""

from typing import Any

from configs import world
from configs.facts import System
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.objectives.alignment import WordPatchAlignment
from vlp.objectives.itm import ITM
from vlp.objectives.knowledge_masking import KnowledgeMasking
from vlp.objectives.masked_regions import MaskedRegions
from vlp.objectives.mlm import MLM
from vlp.objectives.negatives import RandomNegatives
from vlp.retrieval.config import EvaluationConfig
from vlp.training import TrainConfig
from vlp.vision.regions import RegionEmbedding

SYSTEM = System(
    name="ROSITA",
    paper="2108.07073",
    shape="one stream over regions",
    data="COCO, VG, CC3M and SBU; regions, their classes, and captions' scene graphs linked to regions",
    published=116.0,
    source="the authors'",
)


def parts(
    width: int, layers: int, heads: int, feature_width: int, classes: int, words: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) at any size."""
    dropout = 0.0 if words is world.WORDS else 0.1
    vision = lazy(RegionEmbedding)(feature_width=feature_width, width=width, box_form=5, dropout=dropout)
    model = world.one_stream(vision, words, width, layers, heads)
    masking, negatives = lazy(KnowledgeMasking)(), lazy(RandomNegatives)()
    objectives = {
        "itm": lazy(ITM)(negatives=negatives),
        "mlm": lazy(MLM)(width=width, masking=masking, **words),
        "mrm": lazy(MaskedRegions)(
            width=width, feature_width=feature_width, classes=classes, target="label", masking=masking
        ),
        "wra": lazy(WordPatchAlignment)(
            negatives=negatives, skip=0, **(world.ALIGNMENT if words is world.WORDS else {})
        ),
    }
    return model, objectives


def config() -> TrainConfig:
    """Published size: BERT-base, 36 regions."""
    model, objectives = parts(768, 12, 12, 2048, 1601, world.BERT)
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(max_length=30, batch_size=512, workers=8, use_regions=True, use_graph=True, use_pictures=False),
        optim=OptimConfig(lr=1e-4, min_lr=0.0, weight_decay=0.01, warmup_steps=35_000, betas=(0.9, 0.98), clip=1.0),
        run=RunConfig(out="runs/rosita", steps=700_000, precision="fp16", checkpoint_every=5000),
        evaluation=EvaluationConfig(full=True, limit=200),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the regions and graphs of the synthetic world."""
    sizes = (world.WIDTH, world.LAYERS, world.HEADS, world.FEATURES, world.CLASSES)
    return world.tiny("rosita", *parts(*sizes, world.WORDS), use_regions=True, use_graph=True, use_pictures=False)
