"""UNITER: universal image-text representation learning (Chen 2020, arXiv 1909.11740).

One stream over words and detector regions: a BERT-base reads both. MLM, masked region modelling (regression of the
feature, and KL to the detector's classes), ITM, and word-region alignment by optimal transport on the ITM pass.

    accelerate launch -m pretrain configs/systems/uniter.py data.train=SHARDS data.val=SHARDS model.fusion.weights=BERT

Data: image-caption pairs as indexed shards with region features ({key}.regions.safetensors: 10 to 100 boxes, 2048
numbers and 1601 class probabilities each); BERT is a bert-base-cased folder. Published, UNITER-large, 5.6M pairs, after
fine-tuning: COCO 5K TR/IR R@1 65.7/52.9, Flickr30K 87.3/75.6. Not reproduced here: that takes the 5.6M pairs.

Deliberately different: the published run draws one objective a step (COCO 6:8:4:4 for ITM, MLM, regression, KL) where
this one sums them all; batches count pairs, not tokens; wrong pairs never show the same image id. The tiny form
aligns words and regions as they enter the fusion.
"""

from typing import Any

from configs import world
from configs.facts import System
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.fusion.one_stream import OneStream
from vlp.model import VLModel
from vlp.objectives.alignment import WordPatchAlignment
from vlp.objectives.itm import ITM
from vlp.objectives.masked_regions import MaskedRegions
from vlp.objectives.mlm import MLM
from vlp.objectives.negatives import RandomNegatives
from vlp.retrieval.config import EvaluationConfig
from vlp.similarity.matching import MatchingHead
from vlp.text.bert import BertText
from vlp.training import TrainConfig
from vlp.vision.regions import RegionEmbedding

SYSTEM = System(
    name="UNITER",
    paper="1909.11740",
    shape="one stream over regions",
    data="5.6M pairs in domain, 9.6M in all; regions of 2048 numbers and 1601 classes",
    published=86.0,
    source="the paper, the layers alone",
    reason="The paper counts the 12 layers; here the word embeddings (22.3) and the heads are counted too",
)
CASED = {"vocab_size": 28996, "mask_id": 103, "first_word_id": 106}


def parts(
    *,
    width: int,
    layers: int,
    heads: int,
    feature_width: int,
    classes: int,
    vocabulary: dict[str, Any],
    max_positions: int = 512,
    dropout: float = 0.1,
) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) at any size."""
    model = lazy(VLModel)(
        vision=lazy(RegionEmbedding)(feature_width=feature_width, width=width, box_form=7, dropout=dropout),
        text=lazy(BertText)(
            vocab_size=vocabulary["vocab_size"],
            width=width,
            layers=0,
            heads=heads,
            max_positions=max_positions,
            dropout=dropout,
        ),
        fusion=lazy(OneStream)(width=width, layers=layers, heads=heads, dropout=dropout, post_norm=True),
        similarities={"itm": lazy(MatchingHead)(width=width)},
    )
    objectives = {
        "itm": lazy(ITM)(negatives=lazy(RandomNegatives)()),
        "mlm": lazy(MLM)(width=width, **vocabulary),
        "mrm": lazy(MaskedRegions)(width=width, feature_width=feature_width, classes=classes),
        "wra": lazy(WordPatchAlignment)(
            negatives=lazy(RandomNegatives)(), skip=0, **(world.ALIGNMENT if vocabulary is world.WORDS else {})
        ),
    }
    return model, objectives


def config() -> TrainConfig:
    """Published size, UNITER-base: 12 layers of 768."""
    model, objectives = parts(width=768, layers=12, heads=12, feature_width=2048, classes=1601, vocabulary=CASED)
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(max_length=60, batch_size=1024, workers=8, use_regions=True, use_pictures=False),
        optim=OptimConfig(lr=5e-5, min_lr=0.0, weight_decay=0.01, warmup_steps=10_000, betas=(0.9, 0.98), clip=5.0),
        run=RunConfig(out="runs/uniter", steps=200_000, precision="fp16", checkpoint_every=5000),
        evaluation=EvaluationConfig(full=True, limit=200),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the regions of the synthetic world, for a laptop."""
    run = config()
    run.model, run.objectives = parts(
        width=96, layers=4, heads=4, feature_width=64, classes=7, vocabulary=world.WORDS, max_positions=48, dropout=0.0
    )
    run.data = DataConfig(
        train="data/world/train",
        val="data/world/val",
        max_length=40,
        batch_size=32,
        use_regions=True,
        use_pictures=False,
    )
    run.optim = OptimConfig(lr=1.5e-3, min_lr=1e-5, warmup_steps=100, betas=(0.9, 0.98))
    run.run = RunConfig(out="runs/uniter-tiny", steps=2000, checkpoint_every=500)
    run.evaluation = EvaluationConfig(limit=20)
    return run
