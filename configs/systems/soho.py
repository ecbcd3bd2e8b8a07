"""SOHO: seeing out of the box (Huang 2021, arXiv 2104.03135).

One stream: BERT reads words and the cells of a ResNet's map, each replaced by its nearest entry of a visual dictionary
that moves with them. MLM, masked visual modelling (tell the entry of the hidden cells), and ITM.

    accelerate launch -m pretrain configs/systems/soho.py data.train=SHARDS model.fusion.weights=BERT

Data: COCO and Visual Genome as shards. Published after fine-tuning: COCO 5K TR/IR R@1 66.4/50.6, Flickr30K 86.5/72.5.
Not reproduced here: that takes those pairs.

Deliberately different: the dictionary moves after the step, not before the look-up; no gate mixes entry and cell;
learned positions; AdamW for all. The decay is 0.4 as released.
"""

from typing import Any

from configs import world
from configs.facts import System
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.objectives.itm import ITM
from vlp.objectives.masked_dictionary import MaskedDictionary
from vlp.objectives.mlm import MLM
from vlp.objectives.negatives import RandomNegatives
from vlp.retrieval.config import EvaluationConfig
from vlp.training import TrainConfig
from vlp.vision.dictionary import VisualDictionary
from vlp.vision.grid import GridCNN

SYSTEM = System(
    name="SOHO",
    paper="2104.03135",
    shape="one stream over a dictionary of grid cells",
    data="COCO and Visual Genome; pairs",
    reason="The paper gives no count",
)


def parts(vision: Any, words: dict[str, Any], width: int, layers: int, heads: int) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) around a dictionary."""
    model = world.one_stream(vision, words, width, layers, heads)
    objectives = {
        "itm": lazy(ITM)(negatives=lazy(RandomNegatives)()),
        "mlm": lazy(MLM)(width=width, **words),
        "mvm": lazy(MaskedDictionary)(width=width),
    }
    return model, objectives


def config() -> TrainConfig:
    """Published size: ResNet-101, 2,048 entries, BERT-base."""
    grid = lazy(GridCNN)(name="resnet101", image_size=640, pool=2)
    model, objectives = parts(lazy(VisualDictionary)(grid=grid, entries=2048), world.BERT, 768, 12, 12)
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(image_size=640, max_length=30, batch_size=4096, workers=8),
        optim=OptimConfig(lr=1e-4, min_lr=0.0, weight_decay=0.01, warmup_steps=1000),
        run=RunConfig(out="runs/soho", steps=60_000, accumulate=8, precision="bf16", checkpoint_every=2000),
        evaluation=EvaluationConfig(full=True, limit=200),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the synthetic world: 512 entries, of which idle ones become cells."""
    grid = lazy(GridCNN)(name="resnet18", image_size=world.IMAGE, width=world.WIDTH, norm="group", options=world.CNN)
    vision = lazy(VisualDictionary)(grid=grid, entries=512, revive=1e-4)
    return world.tiny("soho", *parts(vision, world.WORDS, world.WIDTH, world.LAYERS, world.HEADS))
