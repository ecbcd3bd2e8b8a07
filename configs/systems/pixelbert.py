"""Pixel-BERT: aligning image pixels with text by deep multi-modal transformers (Huang 2020, arXiv 2004.00849).

One stream: BERT-base reads words and the cells of a ResNet-50's last map, max-pooled 2 x 2, trained end to end; 100
cells of each picture are drawn in pre-training, all are used afterwards. MLM and ITM.

    accelerate launch -m pretrain configs/systems/pixelbert.py data.train=SHARDS model.fusion.weights=BERT

Data: COCO and Visual Genome as shards. Published (X152 in place of the R50), after fine-tuning: COCO 5K TR/IR R@1
63.6/50.1, Flickr30K 87.0/71.5. Not reproduced here: that takes the pairs and 64 GPUs.

Deliberately different: AdamW for all (the paper has SGD for the network); square pictures; learned positions of the
cells where the paper has none; batch statistics of the network stay those of its weights.
"""

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
from vlp.retrieval.config import EvaluationConfig
from vlp.training import TrainConfig
from vlp.vision.grid import GridCNN

SYSTEM = System(
    name="Pixel-BERT (R50)",
    paper="2004.00849",
    shape="one stream over a convolutional grid",
    data="COCO and Visual Genome, 5.6M pairs",
    published=94.9,
    source="ViLT's table 6, without the embeddings of words",
    reason="Here the word embeddings (23.4), positions and heads are counted too",
)


def parts(vision: Any, words: dict[str, Any], width: int, layers: int, heads: int) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) around a grid."""
    model = world.one_stream(vision, words, width, layers, heads)
    objectives = {"itm": lazy(ITM)(negatives=lazy(RandomNegatives)()), "mlm": lazy(MLM)(width=width, **words)}
    return model, objectives


def config() -> TrainConfig:
    """Published size: ResNet-50 and BERT-base, 100 of 13 x 13 cells."""
    vision = lazy(GridCNN)(name="resnet50", image_size=832, pool=2, sample=100)
    model, objectives = parts(vision, world.BERT, 768, 12, 12)
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(image_size=832, max_length=40, batch_size=4096, workers=8),
        optim=OptimConfig(lr=1e-4, min_lr=0.0, weight_decay=0.01, lr_scale={"model.vision": 1.0}),
        run=RunConfig(out="runs/pixelbert", steps=60_000, accumulate=8, precision="bf16", checkpoint_every=2000),
        evaluation=EvaluationConfig(full=True, limit=200),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the synthetic world: 8 of 9 cells."""
    vision = lazy(GridCNN)(
        name="resnet18", image_size=world.IMAGE, width=world.WIDTH, sample=8, norm="group", options=world.CNN
    )
    return world.tiny("pixelbert", *parts(vision, world.WORDS, world.WIDTH, world.LAYERS, world.HEADS))
