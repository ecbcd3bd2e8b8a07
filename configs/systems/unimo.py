"""UNIMO: unified-modal understanding and generation via cross-modal contrastive learning (Li 2021, arXiv 2012.15409).

One stream: a RoBERTa-base reads words and detector regions. A pair is contrasted with captions whose scene graph was
rewritten and, each side by itself, with other pictures and captions. Masked words with a picture and without one,
hidden regions with a caption and without one, and the next word from the picture and the words before it.

    accelerate launch -m pretrain configs/systems/unimo.py data.train=SHARDS data.tokenizer=TOKENIZER

Data: COCO, VG, CC3M and SBU as shards with 100 regions of 2048 numbers and 1601 classes, whose captions have nodes;
published with 54 GB of text and 1.7M pictures without a partner beside them. Published after fine-tuning, large:
Flickr30K TR/IR R@1 89.4/78.0. Not reproduced here: that takes those data.

Deliberately different: texts and pictures by themselves are those of the pairs; positives are other captions of the
picture in the batch, not translations to and fro, nor what a search in other data found; words are masked one by one
and along the scene graph, not in spans; tokenizer and positions as `configs/systems/meter.py` says.
"""

from typing import Any

from configs import world
from configs.facts import System
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.objectives.captioning import Captioning
from vlp.objectives.cross_modal_contrast import CrossModalContrast
from vlp.objectives.graph_masking import GraphMasking
from vlp.objectives.masked_regions import MaskedRegions
from vlp.objectives.mlm import MLM
from vlp.retrieval.config import EvaluationConfig
from vlp.training import TrainConfig
from vlp.vision.regions import RegionEmbedding

SYSTEM = System(
    name="UNIMO (base)",
    paper="2012.15409",
    shape="one stream over regions, words or both",
    data="COCO, VG, CC3M, SBU, texts and pictures; regions, their classes, and captions' scene graphs",
    reason="No count of the authors' was found; RoBERTa-base, from which it starts, has 125",
)


def parts(
    width: int, layers: int, heads: int, embed_dim: int, words: dict[str, Any], **sizes: int
) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) at any size; `sizes` are feature_width and classes of the regions."""
    dropout = 0.0 if words is world.WORDS else 0.1
    vision = lazy(RegionEmbedding)(feature_width=sizes["feature_width"], width=width, box_form=5, dropout=dropout)
    objectives = {
        "cmcl": lazy(CrossModalContrast)(width=width, embed_dim=embed_dim),
        "mlm": lazy(MLM)(width=width, masking=lazy(GraphMasking)(), **words),
        "mrm": lazy(MaskedRegions)(width=width, **sizes),
        "text": lazy(MLM)(width=width, alone=True, **words),
        "image": lazy(MaskedRegions)(width=width, alone=True, **sizes),
        "caption": lazy(Captioning)(width=width, vocab_size=words["vocab_size"]),
    }
    return world.one_stream(vision, words, width, layers, heads), objectives


def config() -> TrainConfig:
    """Published size, base: 12 layers of 768."""
    model, objectives = parts(768, 12, 12, 256, world.ROBERTA, feature_width=2048, classes=1601)
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(
            max_length=50, batch_size=1024, workers=8, use_regions=True, use_graph=True, use_pictures=False
        ),
        optim=OptimConfig(lr=5e-5, min_lr=0.0, weight_decay=0.01, warmup_steps=24_000),
        run=RunConfig(out="runs/unimo", steps=500_000, accumulate=4, precision="bf16", checkpoint_every=5000),
        evaluation=EvaluationConfig(full=True, limit=200),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the regions and graphs of the synthetic world."""
    sizes = {"feature_width": world.FEATURES, "classes": world.CLASSES}
    made = parts(world.WIDTH, world.LAYERS, world.HEADS, 64, world.WORDS, **sizes)
    return world.tiny("unimo", *made, use_regions=True, use_graph=True, use_pictures=False)
