"""Flickr8k from small pretrained encoders: the two-stream system on real photographs, on a laptop's CPU.

DINOv2 ViT-S/14 (Oquab 2023) and a 6-layer MiniLM BERT (Wang 2020), both frozen: 6,000 pictures teach small heads more
than they teach large encoders. What the heads read is rich in return: each token after several blocks, side by side,
standardised. The vision part runs once, over each picture and one augmented view of it, and is cached, 2 x 2 patches
averaged to one. Pre-training is ITC of four heads on pooled tokens, an ensemble in one embedding; fine-tuning adds a
cross-attention of words over patches, trained by InfoNCE over all pairs of a batch, which re-ranks what ITC found.

    vlp data flickr dataset_flickr8k.json images/ data/flickr8k
    vlp data features configs/flickr8k.py data/flickr8k/train data/flickr8k-features/train --views 2
    vlp pretrain configs/flickr8k.py
    vlp finetune configs/flickr8k.py:finetune init=runs/flickr8k
    vlp evaluate runs/flickr8k-finetuned --data data/flickr8k/val

Data: the 6,000 training pictures of Flickr8k alone; weights: `weights/dinov2_vits14` and `weights/all-MiniLM-L6-v2`.
What to expect, and a run from random weights beside it: README, "On real photographs".
"""

from typing import Any

from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.layers.chain import Chain
from vlp.model import VLModel
from vlp.objectives.itc import ITC
from vlp.objectives.scored_contrast import ScoredContrast
from vlp.pooling.tokens import ClsMeanPool, MeanPool
from vlp.reasoning.adapter import TokenAdapter
from vlp.reasoning.token_drop import TokenDrop
from vlp.retrieval.config import EvaluationConfig
from vlp.similarity.cosine import CosineSimilarity
from vlp.similarity.token_pairs import TokenSimilarity
from vlp.similarity.word_attention import WordAttention
from vlp.text.bert import BertText
from vlp.training import TrainConfig
from vlp.vision.vit import TimmViT

VIT = "vit_small_patch14_dinov2"
VISION = "weights/dinov2_vits14/timm_vit_small_patch14_dinov2.fp16.safetensors"
TEXT = "weights/all-MiniLM-L6-v2"


VISION_LEVELS, TEXT_LEVELS = (6, 8, 10, 12), (0, 3, 6)
HEADS = 4
MIX = 2.0  # weight of the first stage in re-ranking


def model(vision: Any, text: str | None, vision_levels: int = 1, text_levels: tuple[int, ...] = ()) -> Any:
    """A ViT-S/14 and 6 text layers. `text`: a BERT folder to start from and keep, or None.

    Heads read the last two of the vision levels: four gave nothing (docs/decisions.md).
    """
    image_width, text_width = 384 * min(vision_levels, 2), 384 * max(len(text_levels), 1)
    adapter = {"embed_dim": 128, "hidden": 512, "dropout": 0.3, "standardize": True, "unit": True}
    return lazy(VLModel)(
        vision=vision,
        text=lazy(BertText)(
            width=384, layers=6, heads=12, weights=text, frozen_layers=6 if text else 0, levels=text_levels
        ),
        similarities={
            "itc": lazy(CosineSimilarity)(
                image_width=2 * image_width,
                text_width=text_width,
                embed_dim=512,
                image_pool=lazy(ClsMeanPool)(width=image_width),
                text_pool=lazy(MeanPool)(),
                hidden=1024,
                dropout=0.3,
                heads=HEADS,
            ),
            "words": lazy(TokenSimilarity)(
                image=lazy(Chain)(parts=[lazy(TokenDrop)(keep=32), lazy(TokenAdapter)(width=image_width, **adapter)]),
                text=lazy(TokenAdapter)(width=text_width, **adapter),
                scorer=lazy(WordAttention)(embed_dim=128),
            ),
        },
    )


def vision() -> Any:
    """The frozen picture encoder, whose output is cached."""
    return lazy(TimmViT)(
        name=VIT, image_size=224, weights=VISION, frozen_blocks=12, merge=2, levels=list(VISION_LEVELS)
    )


def config() -> TrainConfig:
    """Pre-training: ITC alone. The cross-attention waits."""
    return TrainConfig(
        model=model(vision(), TEXT, len(VISION_LEVELS), TEXT_LEVELS),
        objectives={"itc": lazy(ITC)()},
        data=DataConfig(
            train="data/flickr8k-features/train",
            val="data/flickr8k/val",
            tokenizer=TEXT,
            image_size=224,
            max_length=30,
            batch_size=256,
            captions=1,
            flip=True,
            crop_scale=(0.6, 1.0),
            use_features=True,
        ),
        optim=OptimConfig(
            lr=1e-3,
            min_lr=1e-5,
            weight_decay=0.1,
            warmup_steps=50,
            lr_scale={"model.vision": 0.0, "model.text": 0.0, "model.similarities.words": 0.0},
        ),
        run=RunConfig(out="runs/flickr8k", steps=700, precision="auto", checkpoint_every=100),
        evaluation=EvaluationConfig(k=0, bank="data/flickr8k-features/train"),
    )


def finetune() -> TrainConfig:
    """Fine-tuning for retrieval: each word reads the patches, contrast over all pairs of a batch. ITC rests."""
    run = config()
    run.data.batch_size = 128
    run.objectives = {"words": lazy(ScoredContrast)(similarity="words")}
    run.optim.lr_scale = {"model.vision": 0.0, "model.text": 0.0, "model.similarities.itc": 0.0}
    run.run = RunConfig(out="runs/flickr8k-finetuned", steps=700, precision="auto", checkpoint_every=100)
    run.evaluation = EvaluationConfig(
        k=32, mix=MIX, bank="data/flickr8k-features/train", bank_beta=12.0, bank_limit=6000
    )
    return run


def scratch() -> TrainConfig:
    """The same parts from random weights, for comparison: small pictures, everything trains, both losses at once."""
    run = finetune()
    run.model = model(lazy(TimmViT)(name=VIT, image_size=84), None)
    run.objectives = {"itc": lazy(ITC)(), "words": lazy(ScoredContrast)(similarity="words")}
    run.data = DataConfig(
        train="data/flickr8k/train", val="data/flickr8k/val", tokenizer=TEXT, image_size=84, batch_size=64, flip=True
    )
    run.optim = OptimConfig(lr=5e-4, min_lr=1e-6, warmup_steps=20)
    run.run = RunConfig(out="runs/flickr8k-scratch", steps=100, precision="auto")
    run.evaluation = EvaluationConfig(k=32, mix=MIX)
    return run
