"""BLIP: bootstrapping language-image pre-training (Li 2022, arXiv 2201.12086).

Two streams: ITC with a momentum teacher and queue, ITM with hard negatives, and a decoder that captions the picture
from the word embeddings that both share.

    accelerate launch -m pretrain configs/systems/blip.py data.train=SHARDS

Data: 14M to 129M images with filtered captions as shards. Published, 129M, after fine-tuning: COCO 5K TR/IR R@1
81.9/64.3. Not reproduced here: that takes those pairs and the captioner and filter that clean them.

Deliberately different: the text part, the fusion on top of it and the decoder have layers of their own (6, 6 and 12),
where BLIP's three share all but the cross-attention and the decoder's self-attention.
"""

from typing import Any

from configs import demo, world
from configs.facts import System
from configs.parts import two_stream
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.fusion.cross import CrossFusion
from vlp.objectives.captioning import Captioning
from vlp.training import TrainConfig

SYSTEM = System(
    name="BLIP",
    paper="2201.12086",
    shape="two streams, text reads image, a captioning decoder",
    data="14M to 129M images, captions filtered; pairs",
    published=223.7,
    source="transformers' retrieval model",
    reason="That model has no decoder; here it is one of its own (115.4), and the fusion has 6 layers, not 12",
)


def captioning(width: int, layers: int, heads: int, vocab_size: int, dropout: float) -> Any:
    """The decoder and its loss."""
    decoder = lazy(CrossFusion)(width=width, layers=layers, heads=heads, image_width=width, dropout=dropout)
    return lazy(Captioning)(width=width, vocab_size=vocab_size, decoder=decoder, smoothing=0.1)


def config() -> TrainConfig:
    """Published size: ViT-B/16 at 224 px, 30 tokens, global batch 2,400."""
    model, objectives, teacher = two_stream(
        vit="vit_base_patch16_224",
        image_size=224,
        width=768,
        text_layers=6,
        fusion_layers=6,
        heads=12,
        embed_dim=256,
        queue_size=57_600,
    )
    del objectives["mlm"]
    return TrainConfig(
        model=model,
        objectives=objectives | {"caption": captioning(768, 12, 12, 30522, 0.1)},
        teacher=teacher,
        data=DataConfig(image_size=224, max_length=30, batch_size=2400, crop_scale=(0.5, 1.0), flip=True, workers=8),
        optim=OptimConfig(lr=3e-4, min_lr=1e-6, weight_decay=0.05, warmup_steps=3000),
        run=RunConfig(out="runs/blip", steps=1_000_000, precision="bf16", checkpoint_every=5000),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the synthetic world."""
    model, objectives, _ = demo.two_stream_parts()
    del objectives["mlm"]
    caption = captioning(world.WIDTH, 2, world.HEADS, world.WORDS["vocab_size"], 0.0)
    return world.tiny("blip", model, objectives | {"caption": caption})
