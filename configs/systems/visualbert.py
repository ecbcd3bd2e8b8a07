"""VisualBERT: a simple and performant baseline for vision and language (Li 2019, arXiv 1908.03557).

One stream: BERT-base reads words and region features, which carry no box. MLM on the words alone, and whether the
caption is the picture's.

    accelerate launch -m pretrain configs/systems/visualbert.py data.train=SHARDS model.fusion.weights=BERT

Data: COCO's pairs as shards with region features ({key}.regions.safetensors, 2048 numbers each). The paper reports
VQA, VCR, NLVR2 and Flickr30K entities, no retrieval.

Deliberately different: a wrong caption replaces the only one, where the paper shows a true caption and a second one
that is true half of the time; the features are normalised before they are summed.
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
from vlp.vision.regions import RegionEmbedding

SYSTEM = System(
    name="VisualBERT",
    paper="1908.03557",
    shape="one stream over regions without boxes",
    data="COCO, 0.6M pairs; regions",
    published=110.9,
    source="transformers' pre-training model",
)


def parts(width: int, layers: int, heads: int, feature_width: int, words: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) at any size."""
    vision = lazy(RegionEmbedding)(feature_width=feature_width, width=width, box_form=0, hides=False, dropout=0.0)
    model = world.one_stream(vision, words, width, layers, heads)
    objectives = {"itm": lazy(ITM)(negatives=lazy(RandomNegatives)()), "mlm": lazy(MLM)(width=width, **words)}
    return model, objectives


def config() -> TrainConfig:
    """Published size: BERT-base."""
    model, objectives = parts(768, 12, 12, 2048, world.BERT)
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(max_length=128, batch_size=96, workers=8, use_regions=True, use_pictures=False),
        optim=OptimConfig(lr=5e-5, min_lr=0.0, weight_decay=0.01, warmup_steps=6000),
        run=RunConfig(out="runs/visualbert", steps=60_000, precision="bf16", checkpoint_every=5000),
        evaluation=EvaluationConfig(full=True, limit=200),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the regions of the synthetic world."""
    model, objectives = parts(world.WIDTH, world.LAYERS, world.HEADS, world.FEATURES, world.WORDS)
    return world.tiny("visualbert", model, objectives, use_regions=True, use_pictures=False)
