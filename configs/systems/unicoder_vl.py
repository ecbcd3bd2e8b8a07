"""Unicoder-VL: a universal encoder for vision and language (Li 2019, arXiv 1908.06066).

One stream: BERT-base reads words and detector regions with 5 numbers of their boxes. MLM, the class of a hidden region
(cross entropy to the detector's best), and whether picture and caption match, with one wrong pair for each right one.

    accelerate launch -m pretrain configs/systems/unicoder_vl.py data.train=SHARDS model.fusion.weights=BERT

Data: 3.8M pairs of CC3M and SBU as shards with 100 regions of 2048 numbers and 1601 classes each.
Published after fine-tuning: COCO 5K TR/IR R@1 62.3/46.7, Flickr30K 86.2/71.5. Not reproduced here: that takes those
pairs.

Deliberately different: the hidden region shows a learned vector, not zeros; each pair has its wrong pair
in the same step.
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
    name="Unicoder-VL",
    paper="1908.06066",
    shape="one stream over regions",
    data="CC3M and SBU, 3.8M pairs; regions and their classes",
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
        "mrm": lazy(MaskedRegions)(
            width=width, feature_width=feature_width, classes=classes, target="label", feature_weight=0.0
        ),
    }
    return model, objectives


def config() -> TrainConfig:
    """Published size: BERT-base."""
    model, objectives = parts(768, 12, 12, 2048, 1601, world.BERT)
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(max_length=60, batch_size=192, workers=8, use_regions=True, use_pictures=False),
        optim=OptimConfig(lr=1e-4, min_lr=0.0, weight_decay=0.01, warmup_steps=10000),
        run=RunConfig(out="runs/unicoder_vl", steps=300000, precision="bf16", checkpoint_every=5000),
        evaluation=EvaluationConfig(full=True, limit=200),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the regions of the synthetic world."""
    sizes = (world.WIDTH, world.LAYERS, world.HEADS, world.FEATURES, world.CLASSES)
    return world.tiny("unicoder_vl", *parts(*sizes, world.WORDS), use_regions=True, use_pictures=False)
