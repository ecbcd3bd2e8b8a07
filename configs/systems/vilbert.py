"""ViLBERT: pretraining task-agnostic visiolinguistic representations (Lu 2019, arXiv 1908.02265).

Two streams that read each other: the first six of BERT-base's layers see words alone, then six layers of co-attention
over words (768) and regions (1024); the pooled first tokens are multiplied. MLM, the class of a hidden region, and ITM.

    accelerate launch -m pretrain configs/systems/vilbert.py data.train=SHARDS model.text.weights=BERT

Data: CC3M as shards with regions of 2048 numbers and 1601 classes. Published after fine-tuning: Flickr30K IR R@1
58.2. Not reproduced here: that takes those pairs.

Deliberately different: words and regions attend to themselves, then to each other, in each of the six layers, where
ViLBERT puts a layer of mutual attention between layers of its own; the word "global region" is the mean of the embedded
regions.
"""

from typing import Any

from configs import world
from configs.facts import System
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.fusion.co_attention import CoAttention
from vlp.model import VLModel
from vlp.objectives.itm import ITM
from vlp.objectives.masked_regions import MaskedRegions
from vlp.objectives.mlm import MLM
from vlp.objectives.negatives import RandomNegatives
from vlp.retrieval.config import EvaluationConfig
from vlp.similarity.matching import MatchingHead
from vlp.training import TrainConfig
from vlp.vision.regions import RegionEmbedding

SYSTEM = System(
    name="ViLBERT",
    paper="1908.02265",
    shape="two streams over words and regions, co-attention",
    data="CC3M, 3.3M pairs; regions and their classes",
    reason="The paper gives no count; ViLT's table 6 says 274.3 with the detector and without word embeddings",
)


def parts(
    words: dict[str, Any],
    width: int,
    inner: int,
    text_layers: int,
    layers: int,
    heads: int,
    image_heads: int,
    **sizes: int,
) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) at any size; `sizes` are feature_width and classes of the regions."""
    dropout = 0.0 if words is world.WORDS else 0.1
    model = lazy(VLModel)(
        vision=lazy(RegionEmbedding)(feature_width=sizes["feature_width"], width=inner, box_form=5, dropout=dropout),
        text=world.words(words, width, text_layers, heads),
        fusion=lazy(CoAttention)(
            text_width=width,
            image_width=inner,
            width=width,
            image_inner=inner,
            layers=layers,
            heads=heads,
            image_heads=image_heads,
            image_hidden=inner,
            dropout=dropout,
            summary="product",
            mean_first=True,
        ),
        similarities={"itm": lazy(MatchingHead)(width=max(width, inner))},
    )
    objectives = {
        "itm": lazy(ITM)(negatives=lazy(RandomNegatives)()),
        "mlm": lazy(MLM)(width=width, **words),
        "mrm": lazy(MaskedRegions)(width=inner, feature_weight=0.0, **sizes),
    }
    return model, objectives


def config() -> TrainConfig:
    """Published size: 12 text layers, 6 of 1,024 over the regions."""
    model, objectives = parts(world.BERT, 768, 1024, 6, 6, 12, 8, feature_width=2048, classes=1601)
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(max_length=36, batch_size=512, workers=8, use_regions=True, use_pictures=False),
        optim=OptimConfig(lr=1e-4, min_lr=0.0, weight_decay=0.01, warmup_steps=6000),
        run=RunConfig(out="runs/vilbert", steps=64_000, precision="bf16", checkpoint_every=5000),
        evaluation=EvaluationConfig(full=True, limit=200),
    )


def tiny() -> TrainConfig:
    """The same system on the regions of the synthetic world: words of 96, regions of 64."""
    sizes = {"feature_width": world.FEATURES, "classes": world.CLASSES}
    made = parts(world.WORDS, world.WIDTH, 64, 1, 3, world.HEADS, world.HEADS, **sizes)
    return world.tiny("vilbert", *made, use_regions=True, use_pictures=False)
