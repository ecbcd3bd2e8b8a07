"""ALBEF: align before fuse (Li 2021, arXiv 2107.07651).

Two streams: DeiT-shaped ViT-B/16 and the first half of BERT, contrasted; the second half of BERT reads the image.
ITC over a queue of 65,536 with a momentum teacher (0.995) and distillation (alpha 0.4 ramped over the first epoch),
ITM with hard negatives drawn from ITC's scores, MLM with the teacher's distribution.

    accelerate launch -m pretrain configs/systems/albef.py data.train=SHARDS data.val=SHARDS init=null

Data: image-caption pairs as indexed shards (`vlp data karpathy`). Published, 4M images, after fine-tuning: COCO 5K
TR/IR R@1 73.1/56.8, Flickr30K 94.3/82.8 (8 GPUs, 30 epochs). Not reproduced here: that takes the 4M images.

Deliberately different: negatives and targets are masked by image id, not only on the diagonal; the teacher never
drops out; [SEP] is never masked; the temperature is learned as ln(1 / t). Initial weights are given by
`model.vision.weights` (a timm safetensors file) and `model.text.weights`, `model.fusion.weights` (a BERT folder).
"""

from configs.facts import System
from configs.parts import two_stream
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.retrieval.config import EvaluationConfig
from vlp.training import TrainConfig

SYSTEM = System(
    name="ALBEF",
    paper="2107.07651",
    shape="two streams, text reads image",
    data="4M or 14M images (COCO, VG, CC3M, SBU, CC12M); pairs",
    published=209.5,
    source="the paper's 123.7 + 85.8",
)


def config() -> TrainConfig:
    """Published size: 210 M parameters, 256 px, 25 tokens, global batch 512."""
    model, objectives, teacher = two_stream(
        vit="vit_base_patch16_224", image_size=256, width=768, text_layers=6, fusion_layers=6, heads=12, embed_dim=256
    )
    return TrainConfig(
        model=model,
        objectives=objectives,
        teacher=teacher,
        data=DataConfig(image_size=256, max_length=25, batch_size=512, crop_scale=(0.2, 1.0), flip=True, workers=8),
        optim=OptimConfig(lr=1e-4, min_lr=1e-5, weight_decay=0.02, warmup_steps=2000),
        run=RunConfig(out="runs/albef", steps=300_000, precision="bf16", checkpoint_every=5000, eval_every=10_000),
        evaluation=EvaluationConfig(k=128),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the synthetic world, for a laptop."""
    from configs import demo

    run = demo.two_stream_pretrain()
    run.model, run.objectives, run.teacher = demo.two_stream_parts()
    return run
