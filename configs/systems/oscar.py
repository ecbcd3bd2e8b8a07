"""Oscar: object-semantics aligned pre-training (Li 2020, arXiv 2004.06165).

One stream: words, object tags and regions. Words and tags are masked alike; a head on the summary tells whether the
tags are the picture's own.

    accelerate launch -m pretrain configs/systems/oscar.py data.train=SHARDS model.fusion.weights=BERT

Data: shards with regions of 2048 numbers and 6 of the box, and "tags" in each sample's json.
Published, Oscar-base, 6.5M pairs, after fine-tuning: COCO 5K TR/IR R@1 70.0/54.0. Not reproduced here: that takes
those pairs.

Deliberately different: tags stand with the picture they were found in, in front of its regions, so that a picture of
another pair brings its own; their positions start from 0, and their mask is drawn apart from the words'.
"""

from typing import Any

from configs import world
from configs.facts import System
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.model import VLModel
from vlp.objectives.masked_tags import MaskedTags
from vlp.objectives.mlm import MLM
from vlp.objectives.tag_contrast import TagContrast
from vlp.retrieval.config import EvaluationConfig
from vlp.training import TrainConfig
from vlp.vision.regions import RegionEmbedding

SYSTEM = System(
    name="Oscar",
    paper="2004.06165",
    shape="one stream over words, tags and regions",
    data="6.5M pairs (COCO, CC3M, SBU, Flickr30K, VQA, GQA); regions and tags",
    published=110.0,
    source="BERT-base",
)


def parts(width: int, layers: int, heads: int, feature_width: int, words: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) at any size."""
    vision = lazy(RegionEmbedding)(feature_width=feature_width, width=width, box_form=6, hides=False, dropout=0.0)
    whole: Any = world.one_stream(vision, words, width, layers, heads, tags=True)
    model = lazy(VLModel)(**(whole.kwargs | {"similarities": {}}))  # matching is learned in fine-tuning
    masked = {name: words[name] for name in ("vocab_size", "mask_id")}
    objectives = {
        "mlm": lazy(MLM)(width=width, **words),
        "mtl": lazy(MaskedTags)(width=width, **masked),
        "tags": lazy(TagContrast)(width=width, ways=2),
    }
    return model, objectives


def config() -> TrainConfig:
    """Published size: BERT-base."""
    model, objectives = parts(768, 12, 12, 2048, world.BERT)
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(max_length=35, batch_size=1024, workers=8, use_regions=True, use_tags=True, use_pictures=False),
        optim=OptimConfig(lr=5e-5, min_lr=0.0, weight_decay=0.05, warmup_steps=10_000),
        run=RunConfig(out="runs/oscar", steps=1_000_000, precision="bf16", checkpoint_every=5000),
        evaluation=EvaluationConfig(full=True, limit=200),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the regions and tags of the synthetic world."""
    model, objectives = parts(world.WIDTH, world.LAYERS, world.HEADS, world.FEATURES, world.WORDS)
    return world.tiny("oscar", model, objectives, use_regions=True, use_tags=True, use_pictures=False)
