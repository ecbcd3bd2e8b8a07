"""CLIP: learning transferable visual models from natural language supervision (Radford 2021, arXiv 2103.00020).

A dual encoder: ViT-B/32 and a causal text transformer read at its last token; contrast over the batches of all ranks.

    accelerate launch -m pretrain configs/systems/clip.py data.train=SHARDS data.tokenizer=TOKENIZER

Data: 400M pairs (WIT, not public). Published, zero-shot: COCO 5K TR/IR R@1 50.1/30.4, Flickr30K 78.9/58.8 (ViT-B/32).
Not reproduced here: that takes those pairs.

Deliberately different: the temperature stays within [0.01, 0.5]; every pair of one image is a positive; the projections
have biases; the tokenizer is one of word pieces (CLIP's byte pairs are not read here).
"""

from typing import Any

from configs import world
from configs.facts import System
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.model import VLModel
from vlp.objectives.itc import ITC
from vlp.pooling.tokens import LastPool
from vlp.retrieval.config import EvaluationConfig
from vlp.similarity.cosine import CosineSimilarity
from vlp.text.clip import ClipText
from vlp.training import TrainConfig
from vlp.vision.vit import TimmViT

SYSTEM = System(
    name="CLIP (ViT-B/32)",
    paper="2103.00020",
    shape="dual encoder",
    data="WIT, 400M pairs",
    published=151.3,
    source="transformers' CLIPModel",
)


def parts(vision: Any, text: Any, image_width: int, text_width: int, embed_dim: int) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) around two encoders."""
    similarity = lazy(CosineSimilarity)(
        image_width=image_width, text_width=text_width, embed_dim=embed_dim, text_pool=lazy(LastPool)()
    )
    return lazy(VLModel)(vision=vision, text=text, similarities={"itc": similarity}), {"itc": lazy(ITC)(chunk=1024)}


def config() -> TrainConfig:
    """Published size: 151 M parameters, global batch 32,768."""
    vision = lazy(TimmViT)(name="vit_base_patch32_clip_quickgelu_224", image_size=224)
    model, objectives = parts(vision, lazy(ClipText)(), 768, 512, 512)
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(image_size=224, max_length=77, batch_size=32_768, crop_scale=(0.9, 1.0), workers=8),
        optim=OptimConfig(lr=5e-4, min_lr=0.0, weight_decay=0.2, warmup_steps=2000, betas=(0.9, 0.98)),
        run=RunConfig(out="runs/clip", steps=390_000, precision="bf16", checkpoint_every=5000),
        evaluation=EvaluationConfig(k=0),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the synthetic world."""
    text = lazy(ClipText)(vocab_size=160, width=world.WIDTH, layers=3, heads=world.HEADS, max_positions=48)
    return world.tiny("clip", *parts(world.small_vit(), text, world.WIDTH, world.WIDTH, 64))
