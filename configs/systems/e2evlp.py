"""E2E-VLP: end-to-end vision-language pre-training enhanced by visual learning (Xu 2021, arXiv 2106.01804).

One stream as encoder: BERT's layers read words and the cells of a ResNet-50's map, trained end to end. Decoders on top
of it: learned queries tell the objects of the picture as a set, and each word is told from the picture and the words
before it. MLM and ITM.

    accelerate launch -m pretrain configs/systems/e2evlp.py data.train=SHARDS model.fusion.weights=BERT

Data: COCO and Visual Genome as shards with boxes and classes (the released VG detector's 1601). Published after
fine-tuning: Flickr30K TR/IR R@1 86.2/73.6 (not checked against the paper). Not reproduced here: that takes those
pairs.

Deliberately different: objects are those of a detector, their likeliest class and box, without attributes; detection
and captioning have a decoder each, the paper's share one; the captioning decoder reads the map, not the encoder's
states, in which later words would show.
"""

from typing import Any

from configs import world
from configs.facts import System
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.fusion.cross import CrossFusion
from vlp.objectives.captioning import Captioning
from vlp.objectives.detection import SetDetection
from vlp.objectives.itm import ITM
from vlp.objectives.mlm import MLM
from vlp.objectives.negatives import RandomNegatives
from vlp.retrieval.config import EvaluationConfig
from vlp.training import TrainConfig
from vlp.vision.grid import GridCNN

SYSTEM = System(
    name="E2E-VLP",
    paper="2106.01804",
    shape="one stream over a convolutional grid, decoders of objects and of captions on top",
    data="COCO and Visual Genome, 6M pairs; boxes and their classes",
    reason="No count of the authors' was found",
)


def parts(
    vision: Any, words: dict[str, Any], width: int, layers: tuple[int, int], heads: int, classes: int, queries: int
) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) around a grid; `layers` of the encoder and of each decoder."""
    dropout = 0.0 if words is world.WORDS else 0.1

    def decoder() -> Any:
        return lazy(CrossFusion)(width=width, layers=layers[1], heads=heads, image_width=width, dropout=dropout)

    negatives = lazy(RandomNegatives)()
    objectives = {
        "itm": lazy(ITM)(negatives=negatives),
        "mlm": lazy(MLM)(width=width, **words),
        "detection": lazy(SetDetection)(
            width=width, classes=classes, decoder=decoder(), negatives=negatives, queries=queries
        ),
        "caption": lazy(Captioning)(width=width, vocab_size=words["vocab_size"], decoder=decoder()),
    }
    return world.one_stream(vision, words, width, layers[0], heads), objectives


def config() -> TrainConfig:
    """Published size: ResNet-50, 6 layers of 768 below and 6 in each decoder, 100 objects."""
    vision = lazy(GridCNN)(name="resnet50", image_size=512)
    model, objectives = parts(vision, world.BERT, 768, (6, 6), 12, 1601, 100)
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(image_size=512, max_length=40, batch_size=512, workers=8, use_regions=True),
        optim=OptimConfig(lr=1e-4, min_lr=0.0, weight_decay=0.01, warmup_steps=5000),
        run=RunConfig(out="runs/e2evlp", steps=240_000, accumulate=8, precision="bf16", checkpoint_every=5000),
        evaluation=EvaluationConfig(full=True, limit=200),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the synthetic world: 6 x 6 cells, up to 40 objects."""
    vision = lazy(GridCNN)(
        name="resnet18", image_size=world.IMAGE, width=world.WIDTH, norm="group", options=world.FINE_CNN
    )
    made = parts(vision, world.WORDS, world.WIDTH, (3, 2), world.HEADS, world.CLASSES, 40)
    return world.tiny("e2evlp", *made, use_regions=True)
