"""ERNIE-ViL: knowledge enhanced representations through scene graphs (Yu 2021, arXiv 2006.16934), in its base form.

ViLBERT's two streams over words and regions. The caption's scene graph says which words are masked whole, 30 % each of
its objects, attributes and relations, beside the 15 % of BERT; the class of a hidden region, and ITM.

    accelerate launch -m pretrain configs/systems/ernie_vil.py data.train=SHARDS model.text.weights=BERT

Data: CC3M and SBU, 3.8M pairs, as shards with regions of 2048 numbers and 1601 classes, whose captions have phrases and
nodes. Published after fine-tuning, base: Flickr30K TR/IR R@1 86.7/74.4. Not reproduced here: that takes those pairs.

Deliberately different: one masked pass holds the words of both kinds of masking; a relation's objects are the nearest
ones in the caption; what `configs/systems/vilbert.py` says of its layers.
"""

from typing import Any

from configs import world
from configs.facts import System
from configs.systems import vilbert
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.objectives.graph_masking import GraphMasking
from vlp.objectives.mlm import MLM
from vlp.retrieval.config import EvaluationConfig
from vlp.training import TrainConfig

SYSTEM = System(
    name="ERNIE-ViL (base)",
    paper="2006.16934",
    shape="two streams over words and regions, co-attention",
    data="CC3M and SBU, 3.8M pairs; regions, their classes, and captions' scene graphs",
    reason="No count of the authors' was found; its layers are ViLBERT's",
)


def objectives(made: dict[str, Any], width: int, words: dict[str, Any]) -> dict[str, Any]:
    """ViLBERT's, with words masked along the scene graph."""
    return made | {"mlm": lazy(MLM)(width=width, masking=lazy(GraphMasking)(), **words)}


def config() -> TrainConfig:
    """Published size, base: 12 text layers, 6 of 1,024 over the regions."""
    model, made = vilbert.parts(world.BERT, 768, 1024, 6, 6, 12, 8, feature_width=2048, classes=1601)
    return TrainConfig(
        model=model,
        objectives=objectives(made, 768, world.BERT),
        data=DataConfig(max_length=36, batch_size=512, workers=8, use_regions=True, use_graph=True, use_pictures=False),
        optim=OptimConfig(lr=1e-4, min_lr=0.0, weight_decay=0.01, warmup_steps=10_000),
        run=RunConfig(out="runs/ernie_vil", steps=700_000, precision="bf16", checkpoint_every=5000),
        evaluation=EvaluationConfig(full=True, limit=200),
    )


def tiny() -> TrainConfig:
    """The same system on the regions and graphs of the synthetic world."""
    sizes = {"feature_width": world.FEATURES, "classes": world.CLASSES}
    model, made = vilbert.parts(world.WORDS, world.WIDTH, 64, 1, 3, world.HEADS, world.HEADS, **sizes)
    made = objectives(made, world.WIDTH, world.WORDS)
    return world.tiny("ernie_vil", model, made, use_regions=True, use_graph=True, use_pictures=False)
