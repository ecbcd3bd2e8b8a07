"""Flickr8k from small pretrained encoders: the two-stream system on real photographs, on a laptop's CPU.

DINOv2 ViT-S/14 (Oquab 2023) and a 6-layer MiniLM BERT (Wang 2020), both frozen where they need no change: the first 10
of 12 vision blocks are run once and cached, 2 x 2 patches averaged to one; of the text encoder the last 3 layers train.
The fusion starts from the BERT's last layers. Pre-training is ITC alone, fine-tuning ITC and ITM with hard negatives.
Captions of a picture come together, so that what is left of the vision transformer runs once for all of them.

    vlp data flickr dataset_flickr8k.json images/ data/flickr8k
    vlp data features configs/flickr8k.py data/flickr8k/train data/flickr8k-features/train
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
from vlp.fusion.cross import CrossFusion
from vlp.model import VLModel
from vlp.objectives.itc import ITC
from vlp.objectives.itm import ITM
from vlp.objectives.negatives import HardNegatives
from vlp.pooling.tokens import ClsMeanPool, MeanPool
from vlp.retrieval.config import EvaluationConfig
from vlp.similarity.cosine import CosineSimilarity
from vlp.similarity.matching import MatchingHead
from vlp.text.bert import BertText
from vlp.training import TrainConfig
from vlp.vision.vit import TimmViT

VIT = "vit_small_patch14_dinov2"
VISION = "weights/dinov2_vits14/timm_vit_small_patch14_dinov2.fp16.safetensors"
TEXT = "weights/all-MiniLM-L6-v2"


def model(vision: Any, text: str | None, frozen_layers: int = 0) -> Any:
    """A ViT-S/14, 6 text layers, 3 fusion layers. `text`: a BERT folder to start from, or None."""
    return lazy(VLModel)(
        vision=vision,
        text=lazy(BertText)(width=384, layers=6, heads=12, weights=text, frozen_layers=frozen_layers),
        fusion=lazy(CrossFusion)(width=384, layers=3, heads=12, image_width=384, weights=text, first_layer=3),
        similarities={
            "itc": lazy(CosineSimilarity)(
                image_width=768,
                text_width=384,
                embed_dim=256,
                image_pool=lazy(ClsMeanPool)(),
                text_pool=lazy(MeanPool)(),
            ),
            "itm": lazy(MatchingHead)(width=384),
        },
    )


def config() -> TrainConfig:
    """Pre-training: ITC alone, for most of the pairs that a CPU can see in the time. The fusion waits."""
    vision = lazy(TimmViT)(name=VIT, image_size=224, weights=VISION, frozen_blocks=10, merge=2)
    return TrainConfig(
        model=model(vision, TEXT, frozen_layers=3),
        objectives={"itc": lazy(ITC)()},
        data=DataConfig(
            train="data/flickr8k-features/train",
            val="data/flickr8k/val",
            tokenizer=TEXT,
            image_size=224,
            max_length=30,
            batch_size=640,
            captions=5,
            use_features=True,
        ),
        optim=OptimConfig(
            lr=3e-4,
            min_lr=3e-5,
            warmup_steps=40,
            # pretrained parts move at a third of the rate
            lr_scale={"model.vision": 0.33, "model.text": 0.33, "model.fusion": 0.0, "model.similarities.itm": 0.0},
        ),
        run=RunConfig(out="runs/flickr8k", steps=376, precision="bf16", checkpoint_every=94),
        evaluation=EvaluationConfig(k=0),
    )


def finetune() -> TrainConfig:
    """Fine-tuning for retrieval: ITC and ITM, every caption of a picture a positive."""
    run = config()
    run.model.kwargs["fusion"].kwargs["dropout"] = 0.0  # it starts at random and is far from learning by heart
    run.data.captions, run.data.batch_size = 2, 160
    run.objectives = {"itc": lazy(ITC)(), "itm": lazy(ITM)(negatives=lazy(HardNegatives)())}
    run.optim = OptimConfig(lr=5e-4, min_lr=1e-5, warmup_steps=30, lr_scale={"model.vision": 0.2, "model.text": 0.2})
    run.run = RunConfig(out="runs/flickr8k-finetuned", steps=700, precision="bf16", checkpoint_every=100)
    run.evaluation = EvaluationConfig(k=16, mix=5.0)  # the fused head is overconfident: it has seen few pictures
    return run


def scratch() -> TrainConfig:
    """The same parts from random weights, for comparison: small pictures, everything trains, ITC and ITM at once."""
    run = finetune()
    run.model = model(lazy(TimmViT)(name=VIT, image_size=84), None)
    run.data = DataConfig(
        train="data/flickr8k/train", val="data/flickr8k/val", tokenizer=TEXT, image_size=84, batch_size=64, flip=True
    )
    run.optim = OptimConfig(lr=5e-4, min_lr=1e-6, warmup_steps=20)
    run.run = RunConfig(out="runs/flickr8k-scratch", steps=100, precision="bf16")
    return run
