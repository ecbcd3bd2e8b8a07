"""ALIGN: scaling up visual and vision-language learning with noisy text supervision (Jia 2021, arXiv 2102.05918).

A dual encoder: EfficientNet-L2, its last map averaged, and BERT-large at [CLS]; contrast over the batches of all
ranks with label smoothing 0.1 and a learned temperature that starts at 1.

    accelerate launch -m pretrain configs/systems/align.py data.train=SHARDS data.tokenizer=BERT

Data: 1.8B noisy pairs, not public. Published, after fine-tuning: COCO 5K TR/IR R@1 77.0/59.9, Flickr30K 95.3/84.9. Not
reproduced here: that takes those pairs.

Deliberately different: AdamW, not LAMB; the temperature starts at 0.5, the largest that the similarity keeps; both
sides have a projection, where the paper has one for the text.
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
from vlp.pooling.tokens import MeanPool
from vlp.retrieval.config import EvaluationConfig
from vlp.similarity.cosine import CosineSimilarity
from vlp.training import TrainConfig
from vlp.vision.grid import GridCNN

SYSTEM = System(
    name="ALIGN",
    paper="2102.05918",
    shape="dual encoder, EfficientNet",
    data="1.8B noisy pairs",
    published=815.0,
    source="EfficientNet-L2's 480 and BERT-large's 335, each from its own paper",
)


def parts(vision: Any, text: Any, width: int, embed_dim: int) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) around two encoders of one width."""
    similarity = lazy(CosineSimilarity)(
        image_width=width, text_width=width, embed_dim=embed_dim, temperature=0.5, image_pool=lazy(MeanPool)()
    )
    model = lazy(VLModel)(vision=vision, text=text, similarities={"itc": similarity})
    return model, {"itc": lazy(ITC)(smoothing=0.1, chunk=1024)}


def config() -> TrainConfig:
    """Published size: 289 px, global batch 16,384."""
    vision = lazy(GridCNN)(name="tf_efficientnet_l2", image_size=288, width=1024)
    model, objectives = parts(vision, world.words(world.BERT, 1024, 24, 16), 1024, 640)
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(image_size=288, max_length=64, batch_size=16_384, crop_scale=(0.8, 1.0), flip=True, workers=8),
        optim=OptimConfig(lr=1e-3, min_lr=0.0, weight_decay=1e-5, warmup_steps=10_000),
        run=RunConfig(out="runs/align", steps=1_200_000, precision="bf16", checkpoint_every=5000),
        evaluation=EvaluationConfig(k=0),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the synthetic world."""
    vision = lazy(GridCNN)(name="resnet18", image_size=world.IMAGE, width=world.WIDTH, norm="group", options=world.CNN)
    return world.tiny("align", *parts(vision, world.words(world.WORDS, world.WIDTH, 3, world.HEADS), world.WIDTH, 64))
