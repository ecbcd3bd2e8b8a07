"""METER: an empirical study of training end-to-end vision-and-language transformers (Dou 2022, arXiv 2111.02387).

Two streams that read each other: CLIP's ViT-B/16 and a RoBERTa-base, six layers of co-attention a side, the pooled
first tokens of both side by side. MLM and ITM.

    accelerate launch -m pretrain configs/systems/meter.py data.train=SHARDS data.tokenizer=TOKENIZER

Data: 4M images (COCO, VG, CC3M, SBU) as shards. Published after fine-tuning: COCO 5K TR/IR R@1 76.2/57.1, Flickr30K
94.3/82.2. Not reproduced here: that takes the 4M images.

Deliberately different: 12 ViT blocks, the released code drops the last; the text part is a BERT with RoBERTa's
vocabulary (no offset of its positions); the tokenizer is one of word pieces; the decoder of MLM is tied to the word
embeddings.
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
from vlp.objectives.mlm import MLM
from vlp.objectives.negatives import RandomNegatives
from vlp.retrieval.config import EvaluationConfig
from vlp.similarity.matching import MatchingHead
from vlp.training import TrainConfig
from vlp.vision.vit import TimmViT

SYSTEM = System(
    name="METER",
    paper="2111.02387",
    shape="two streams, co-attention",
    data="4M images (COCO, VG, CC3M, SBU); pairs",
    published=326.4,
    source="BridgeTower-base in transformers, which differs from METER by its bridges",
)


def parts(vision: Any, words: dict[str, Any], width: int, text_layers: int, layers: int, heads: int) -> Any:
    """(model, objectives) around a vision transformer of that width."""
    dropout = 0.0 if words is world.WORDS else 0.1
    model = lazy(VLModel)(
        vision=vision,
        text=world.words(words, width, text_layers, heads),
        fusion=lazy(CoAttention)(
            text_width=width, image_width=width, width=width, layers=layers, heads=heads, dropout=dropout
        ),
        similarities={"itm": lazy(MatchingHead)(width=2 * width)},
    )
    objectives = {"itm": lazy(ITM)(negatives=lazy(RandomNegatives)()), "mlm": lazy(MLM)(width=width, **words)}
    return model, objectives


def config() -> TrainConfig:
    """Published size: 288 px, 50 tokens, global batch 4,096; the fusion and heads at five times the rate."""
    vision = lazy(TimmViT)(name="vit_base_patch16_clip_quickgelu_224", image_size=288)
    model, objectives = parts(vision, world.ROBERTA, 768, 12, 6, 12)
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(image_size=288, max_length=50, batch_size=4096, workers=8),
        optim=OptimConfig(
            lr=1e-5,
            min_lr=0.0,
            weight_decay=0.01,
            warmup_steps=10_000,
            lr_scale={"model.fusion": 5.0, "model.similarities": 5.0, "objectives": 5.0},
        ),
        run=RunConfig(out="runs/meter", steps=100_000, accumulate=8, precision="bf16", checkpoint_every=5000),
        evaluation=EvaluationConfig(full=True, limit=200),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the synthetic world."""
    return world.tiny("meter", *parts(world.small_vit(), world.WORDS, world.WIDTH, 2, 3, world.HEADS))
