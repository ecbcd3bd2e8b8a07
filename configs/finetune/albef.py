"""ALBEF's fine-tuning for retrieval (Li 2021, section 5): ITC and ITM at 384 px, every caption of a picture a positive.

    accelerate launch -m finetune configs/finetune/albef.py init=runs/albef data.train=SHARDS/train data.val=SHARDS/val
    accelerate launch -m finetune.evaluate runs/albef-finetuned --data SHARDS/test --k 256 --fold 1000

Data: COCO (5 epochs, k 256) or Flickr30K (10 epochs, k 128) as indexed shards. Position embeddings are resampled from
256 to 384 px when the checkpoint is read. Published, from 4M images: COCO 5K TR/IR R@1 73.1/56.8, Flickr30K 94.3/82.8.
Not reproduced here: that takes the 4M images.

Deliberately different: no queue and no teacher; the candidates are the batch of all ranks, with gradient.
"""

from configs.systems import albef
from vlp.config import override
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.retrieval.config import EvaluationConfig
from vlp.training import TrainConfig


def config() -> TrainConfig:
    """Global batch 256; 11,000 steps are 5 epochs of COCO's 567,000 pairs."""
    run = override(albef.config(), ["model.vision.image_size=384"])
    run.objectives = {name: run.objectives[name] for name in ("itc", "itm")}
    run.teacher = None
    run.data = DataConfig(image_size=384, max_length=30, batch_size=256, crop_scale=(0.5, 1.0), flip=True, workers=8)
    run.optim = OptimConfig(lr=1e-5, min_lr=1e-6, weight_decay=0.02)
    run.run = RunConfig(out="runs/albef-finetuned", steps=11_000, precision="bf16", checkpoint_every=2000)
    run.evaluation = EvaluationConfig(k=256)
    return run
