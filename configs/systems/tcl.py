"""TCL: vision-language pre-training with triple contrastive learning (Yang 2022, arXiv 2202.10401).

ALBEF's two streams with two further contrasts: each embedding against the teacher's of its own modality, and each patch
and word against the whole that it is a part of.

    accelerate launch -m pretrain configs/systems/tcl.py data.train=SHARDS

Data: 4M images (COCO, VG, CC3M, SBU) as shards. Published after fine-tuning: COCO 5K TR/IR R@1 75.6/59.0, Flickr30K
94.9/84.0. Not reproduced here: that takes the 4M images.

Deliberately different: student and teacher see the same view of a picture, the paper shows them two; the parts'
negatives are wholes of all ranks, not parts of the local batch.
"""

from typing import Any

from configs import demo, world
from configs.facts import System
from configs.parts import two_stream
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.objectives.intra_modal import IntraModalContrast, LocalGlobalContrast
from vlp.training import TrainConfig

SYSTEM = System(
    name="TCL",
    paper="2202.10401",
    shape="two streams, text reads image",
    data="4M images (COCO, VG, CC3M, SBU); pairs",
    published=209.5,
    source="ALBEF's, whose parts it uses",
)


def more() -> dict[str, Any]:
    """The objectives beside ALBEF's."""
    return {"imc": lazy(IntraModalContrast)(), "lmi": lazy(LocalGlobalContrast)()}


def config() -> TrainConfig:
    """Published size: 256 px, 25 tokens, global batch 512."""
    model, objectives, teacher = two_stream(
        vit="vit_base_patch16_224", image_size=256, width=768, text_layers=6, fusion_layers=6, heads=12, embed_dim=256
    )
    return TrainConfig(
        model=model,
        objectives=objectives | more(),
        teacher=teacher,
        data=DataConfig(image_size=256, max_length=25, batch_size=512, crop_scale=(0.2, 1.0), flip=True, workers=8),
        optim=OptimConfig(lr=1e-4, min_lr=1e-5, weight_decay=0.02, warmup_steps=2000),
        run=RunConfig(out="runs/tcl", steps=300_000, precision="bf16", checkpoint_every=5000),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the synthetic world."""
    whole = world.WIDTH
    model, objectives, teacher = two_stream(
        vit="vit_tiny_patch16_224",
        image_size=world.IMAGE,
        width=whole,
        text_layers=2,
        fusion_layers=3,
        heads=world.HEADS,
        embed_dim=64,
        vit_options={"patch_size": world.PATCH, "embed_dim": whole, "depth": 4, "num_heads": 4, "weight_init": "jax"},
        vocabulary=demo.WORLD,
        max_positions=48,
        dropout=0.0,
        queue_size=256,
    )
    return world.tiny("tcl", model, objectives | more(), teacher)
