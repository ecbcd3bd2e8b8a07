"""SigLIP: sigmoid loss for language image pre-training (Zhai 2023, arXiv 2303.15343).

A dual encoder: ViT-B/16 read by a learned query, a text transformer read at its last token; each pair of the global
batch is told right or wrong by itself, with a learned bias.

    accelerate launch -m pretrain configs/systems/siglip.py data.train=SHARDS data.tokenizer=TOKENIZER

Data: WebLI, not public. Published, zero-shot, ViT-B/16: COCO 5K TR/IR R@1 65.7/47.8, Flickr30K 89.1/74.7. Not
reproduced here: that takes those pairs.

Deliberately different: captions are padded to the longest of a batch and read without their padding, where SigLIP
reads 64 tokens with it; both sides have a projection; the tokenizer is one of word pieces.
"""

from typing import Any

from configs import world
from configs.facts import System
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.model import VLModel
from vlp.objectives.sigmoid import SigmoidContrast
from vlp.pooling.tokens import AttentionPool, LastPool
from vlp.retrieval.config import EvaluationConfig
from vlp.similarity.cosine import CosineSimilarity
from vlp.text.clip import ClipText
from vlp.training import TrainConfig
from vlp.vision.vit import TimmViT

SYSTEM = System(
    name="SigLIP (ViT-B/16)",
    paper="2303.15343",
    shape="dual encoder",
    data="WebLI; pairs",
    published=203.2,
    source="open_clip's ViT-B-16-SigLIP",
)


def parts(vision: Any, text: Any, width: int, heads: int, embed_dim: int, chunk: int) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) around two encoders."""
    similarity = lazy(CosineSimilarity)(
        image_width=width,
        text_width=width,
        embed_dim=embed_dim,
        temperature=0.1,
        image_pool=lazy(AttentionPool)(width=width, heads=heads),
        text_pool=lazy(LastPool)(),
    )
    model = lazy(VLModel)(vision=vision, text=text, similarities={"itc": similarity})
    return model, {"sigmoid": lazy(SigmoidContrast)(chunk=chunk, ring=True)}


def config() -> TrainConfig:
    """Published size: 203 M parameters, global batch 32,768, 1,024 texts compared at a time."""
    options = {"global_pool": "", "class_token": False}
    vision = lazy(TimmViT)(name="vit_base_patch16_siglip_224", image_size=224, options=options)
    text = lazy(ClipText)(vocab_size=32_000, width=768, heads=12, max_positions=64, causal=False, quick=False, eps=1e-6)
    model, objectives = parts(vision, text, 768, 12, 768, 1024)
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(
            image_size=224, max_length=64, batch_size=32_768, workers=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
        ),
        optim=OptimConfig(lr=1e-3, min_lr=0.0, weight_decay=1e-4, warmup_steps=20_000, betas=(0.9, 0.95)),
        run=RunConfig(out="runs/siglip", steps=1_200_000, precision="bf16", checkpoint_every=5000),
        evaluation=EvaluationConfig(k=0),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the synthetic world."""
    text = lazy(ClipText)(
        vocab_size=160, width=world.WIDTH, layers=3, heads=world.HEADS, max_positions=48, causal=False, quick=False
    )
    return world.tiny("siglip", *parts(world.small_vit(), text, world.WIDTH, world.HEADS, 64, 16))
