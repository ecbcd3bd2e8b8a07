"""CoCa: contrastive captioners are image-text foundation models (Yu 2022, arXiv 2205.01917), in its base form.

Two streams: a vision transformer and a causal text transformer, contrasted; causal layers on top of it read the image
and tell the next word. The first part of the decoder is the text encoder, so one pass serves both losses.

    accelerate launch -m pretrain configs/systems/coca.py data.train=SHARDS

Data: JFT-3B and ALIGN's pairs, not public. Published, the 2.1B form, zero-shot: COCO 5K TR/IR R@1 66.3/51.2,
Flickr30K 92.5/80.4. Not reproduced here: that takes those pairs.

Deliberately different: the image is read as it is, without pooling by 256 queries; the caption's embedding is that of
its [SEP], which every word comes before; BERT's blocks; captioning weighs 2 and contrast 1 as published.
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
from vlp.objectives.captioning import Captioning
from vlp.objectives.itc import ITC
from vlp.pooling.tokens import AttentionPool, LastPool
from vlp.similarity.cosine import CosineSimilarity
from vlp.training import TrainConfig
from vlp.vision.vit import TimmViT

SYSTEM = System(
    name="CoCa (base)",
    paper="2205.01917",
    shape="dual encoder and a decoder on top",
    data="JFT-3B and 1.8B pairs",
    published=383.0,
    source="the paper's table 1, CoCa-Base",
    reason="BERT's vocabulary (30,522, not 64,000) and no pooling layers of 256 queries",
)


def parts(
    vision: Any, words: dict[str, Any], width: int, layers: tuple[int, int], heads: int, embed_dim: int
) -> tuple[Any, dict[str, Any]]:
    """(model, objectives); `layers` of the text part and of the decoder on top."""
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
                image_pool=lazy(AttentionPool)(width=width, heads=heads),
                text_pool=lazy(LastPool)(),
            )
        },
    )
    objectives = {
        "itc": lazy(ITC)(),
        "caption": lazy(Captioning)(width=width, vocab_size=words["vocab_size"], weight=2.0),
    }
    return model, objectives


def config() -> TrainConfig:
    """Published size, base: ViT-B/18 here B/16 at 288 px, 12 + 12 text layers, global batch 65,536."""
    vision = lazy(TimmViT)(name="vit_base_patch16_224", image_size=288)
    model, objectives = parts(vision, world.BERT, 768, (12, 12), 12, 768)
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(image_size=288, max_length=64, batch_size=65_536, workers=8),
        optim=OptimConfig(lr=8e-4, min_lr=0.0, weight_decay=0.01, warmup_steps=10_000),
        run=RunConfig(out="runs/coca", steps=500_000, precision="bf16", checkpoint_every=5000),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the synthetic world."""
    return world.tiny("coca", *parts(world.small_vit(), world.WORDS, world.WIDTH, (2, 2), world.HEADS, 64))
