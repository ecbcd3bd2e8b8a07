"""KD-VLP: improving end-to-end pretraining with object knowledge distillation (Liu 2022, arXiv 2109.10504).

One stream: BERT-base reads words and the cells of a ResNet-101's map, trained end to end. A detector teaches and is
gone at inference: the cells of an object are hidden and tell its feature and classes; phrases and regions are to be as
like as their words and names. MLM and ITM.

    accelerate launch -m pretrain configs/systems/kdvlp.py data.train=SHARDS model.fusion.weights=BERT \\
        objectives.pra.labels=LISTS_OF_PIECES

Data: COCO, VG, CC3M and SBU as shards with regions of 2048 numbers and 1601 classes, whose captions have phrases; the
word pieces of each class's name. Published after fine-tuning: COCO 5K TR/IR R@1 74.3/56.7, Flickr30K 91.4/78.2 (not
checked against the paper). Not reproduced here: that takes those pairs.

Deliberately different: words and names are compared by this model's word embeddings, where the paper takes those of a
language model beside it; AdamW for all; square pictures; batch statistics of the network stay those of its weights.
"""

from collections.abc import Sequence
from typing import Any

from configs import world
from configs.facts import System
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.objectives.itm import ITM
from vlp.objectives.mlm import MLM
from vlp.objectives.negatives import RandomNegatives
from vlp.objectives.object_masking import ObjectMasking
from vlp.objectives.phrase_region import PhraseRegion
from vlp.retrieval.config import EvaluationConfig
from vlp.training import TrainConfig
from vlp.vision.grid import GridCNN

SYSTEM = System(
    name="KD-VLP",
    paper="2109.10504",
    shape="one stream over a convolutional grid, a detector as teacher",
    data="COCO, VG, CC3M and SBU; regions and classes of a detector, their names, and captions' phrases",
    reason="No count of the authors' was found",
)


def parts(
    vision: Any,
    words: dict[str, Any],
    width: int,
    layers: int,
    heads: int,
    labels: Sequence[Sequence[int]],
    **sizes: int,
) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) around a grid; `sizes` are feature_width and classes of the regions."""
    model = world.one_stream(vision, words, width, layers, heads)
    negatives = lazy(RandomNegatives)()
    objectives = {
        "itm": lazy(ITM)(negatives=negatives),
        "mlm": lazy(MLM)(width=width, **words),
        "omvm": lazy(ObjectMasking)(width=width, **sizes),
        "pra": lazy(PhraseRegion)(negatives=negatives, labels=labels),
    }
    return model, objectives


def config() -> TrainConfig:
    """Published size: ResNet-101 and BERT-base, 16 x 16 cells."""
    vision = lazy(GridCNN)(name="resnet101", image_size=512, hides=True)
    model, objectives = parts(vision, world.BERT, 768, 12, 12, [], feature_width=2048, classes=1601)
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(image_size=512, max_length=40, batch_size=1024, workers=8, use_regions=True, use_graph=True),
        optim=OptimConfig(lr=1e-4, min_lr=0.0, weight_decay=0.01, warmup_steps=5000),
        run=RunConfig(out="runs/kdvlp", steps=200_000, accumulate=8, precision="bf16", checkpoint_every=5000),
        evaluation=EvaluationConfig(full=True, limit=200),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the synthetic world: 3 x 3 cells."""
    vision = lazy(GridCNN)(
        name="resnet18", image_size=world.IMAGE, width=world.WIDTH, norm="group", hides=True, options=world.CNN
    )
    sizes = {"feature_width": world.FEATURES, "classes": world.CLASSES}
    made = parts(vision, world.WORDS, world.WIDTH, world.LAYERS, world.HEADS, world.LABELS, **sizes)
    return world.tiny("kdvlp", *made, use_regions=True, use_graph=True)
