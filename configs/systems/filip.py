"""FILIP: fine-grained interactive language-image pre-training (Yao 2021, arXiv 2111.07783).

A dual encoder whose tokens meet: the similarity of picture and caption is the mean over the tokens of one of their best
cosine with a token of the other, trained by contrast over the batches of all ranks.

    accelerate launch -m pretrain configs/systems/filip.py data.train=SHARDS data.tokenizer=TOKENIZER

Data: FILIP300M and other sets, 340M pairs, not public. Published, FILIP-large, after fine-tuning: COCO 5K TR/IR R@1
78.9/61.2, Flickr30K 96.6/87.1. Not reproduced here: that takes those pairs.

Deliberately different: all tokens are compared, where the paper keeps the best quarter of them for the exchange between
ranks; no prompt ensemble; AdamW, not LAMB.
"""

from typing import Any

from configs import world
from configs.facts import System
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.model import VLModel
from vlp.objectives.late_contrast import LateContrast
from vlp.retrieval.config import EvaluationConfig
from vlp.similarity.late import LateInteraction
from vlp.text.clip import ClipText
from vlp.training import TrainConfig
from vlp.vision.vit import TimmViT

SYSTEM = System(
    name="FILIP (ViT-B/32)",
    paper="2111.07783",
    shape="dual encoder with late interaction",
    data="340M pairs",
    reason="The paper gives no count; its encoders are those of CLIP, 151.3",
    state="trains; every pair is scored by late interaction, in tiles",
)


def parts(
    vision: Any, text: Any, image_width: int, text_width: int, embed_dim: int, max_length: int, **options: Any
) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) around two encoders; `options` are those of `LateInteraction`."""
    late = lazy(LateInteraction)(image_width=image_width, text_width=text_width, embed_dim=embed_dim, **options)
    model = lazy(VLModel)(vision=vision, text=text, similarities={"late": late})
    return model, {"late": lazy(LateContrast)(max_length=max_length)}


def config() -> TrainConfig:
    """Published size, base: CLIP's ViT-B/32 and text transformer, tokens of 256."""
    vision = lazy(TimmViT)(name="vit_base_patch32_clip_quickgelu_224", image_size=224)
    model, objectives = parts(vision, lazy(ClipText)(), 768, 512, 256, 77, chunk=64)
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(image_size=224, max_length=77, batch_size=8192, workers=8),
        optim=OptimConfig(lr=6e-3, min_lr=0.0, weight_decay=3e-2, warmup_steps=2000),
        run=RunConfig(out="runs/filip", steps=1_000_000, precision="bf16", checkpoint_every=5000),
        evaluation=EvaluationConfig(k=0),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the synthetic world, in a form whose words point to their things: patches seen one
    by one, twins side by side, and a first temperature at which one word of a caption counts (docs/decisions.md)."""
    text = lazy(ClipText)(
        vocab_size=160, width=world.WIDTH, layers=1, heads=world.HEADS, max_positions=48, causal=False
    )
    made = parts(world.small_patch_cnn([3]), text, world.WIDTH, world.WIDTH, 64, 40, temperature=0.02, chunk=16)
    return world.tiny("filip", *made, batch_size=64, captions=1, block=2)
