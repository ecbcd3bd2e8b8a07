"""Thinking fast and slow: efficient text-to-visual retrieval with transformers (Miech 2021, arXiv 2103.16553).

Fast: a ResNet's map, averaged, and a text transformer, contrasted. Slow: layers on top of the text that read every cell
of the map and tell the next word. The slow one's likelihoods of captions are distilled into the fast one, and order
its shortlist anew, mixed with its logits.

    accelerate launch -m pretrain configs/systems/fast_slow.py data.train=SHARDS

Data: COCO, or CC3M, as shards. Published: recalls of Flickr30K that rest on these; no figure was verified here.

Deliberately different: one encoder of pictures and one causal encoder of words serve both models, which train together
(the paper trains two models, the slow one first); captions are told forwards only; the map is read at its own
resolution, not upsampled; a likelihood that ranks is the mean over the words of a caption, which orders pictures for it
as the paper's sum does, and captions for a picture whatever their length.
"""

from typing import Any

from configs import world
from configs.facts import System
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.fusion.cross import CrossFusion
from vlp.model import VLModel
from vlp.objectives.fast_slow import FastSlow
from vlp.objectives.itc import ITC
from vlp.pooling.tokens import LastPool, MeanPool
from vlp.retrieval.config import EvaluationConfig
from vlp.similarity.cosine import CosineSimilarity
from vlp.similarity.likelihood import CaptionLikelihood
from vlp.training import TrainConfig
from vlp.vision.grid import GridCNN

SYSTEM = System(
    name="Fast and slow",
    paper="2103.16553",
    shape="dual encoder and a captioning decoder on top, distilled into it",
    data="COCO or CC3M; pairs",
    reason="No count of the authors' was found",
)


def parts(
    vision: Any, words: dict[str, Any], width: int, layers: tuple[int, int], heads: int, embed_dim: int
) -> tuple[Any, dict[str, Any]]:
    """(model, objectives); `layers` of the text part and of the slow model on top."""
    dropout = 0.0 if words is world.WORDS else 0.1
    model = lazy(VLModel)(
        vision=vision,
        text=world.words(words, width, layers[0], heads, causal=True),
        fusion=lazy(CrossFusion)(width=width, layers=layers[1], heads=heads, image_width=width, dropout=dropout),
        similarities={
            "itc": lazy(CosineSimilarity)(
                image_width=width,
                text_width=width,
                embed_dim=embed_dim,
                image_pool=lazy(MeanPool)(),
                text_pool=lazy(LastPool)(),
            ),
            "slow": lazy(CaptionLikelihood)(width=width, vocab_size=words["vocab_size"], per="word"),
        },
    )
    return model, {"itc": lazy(ITC)(), "pair": lazy(FastSlow)()}


def config() -> TrainConfig:
    """ResNet-50 at 224 px, 12 layers of 768 on the words and 6 on top."""
    vision = lazy(GridCNN)(name="resnet50", image_size=224, width=768)
    model, objectives = parts(vision, world.BERT, 768, (12, 6), 12, 512)
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(image_size=224, max_length=30, batch_size=1024, crop_scale=(0.5, 1.0), flip=True, workers=8),
        optim=OptimConfig(lr=1e-4, min_lr=0.0, weight_decay=0.01, warmup_steps=5000),
        run=RunConfig(out="runs/fast_slow", steps=200_000, precision="bf16", checkpoint_every=5000),
        evaluation=EvaluationConfig(k=50, mix=0.05),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the synthetic world."""
    vision = lazy(GridCNN)(name="resnet18", image_size=world.IMAGE, width=world.WIDTH, norm="group", options=world.CNN)
    return world.tiny("fast_slow", *parts(vision, world.WORDS, world.WIDTH, (2, 2), world.HEADS, 64))
