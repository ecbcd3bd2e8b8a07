"""CLIP tuned for retrieval: contrast over the batches of all ranks, every caption of a picture a positive.

    accelerate launch -m finetune configs/finetune/clip.py init=runs/clip data.train=SHARDS/train data.val=SHARDS/val

Data: COCO or Flickr30K as indexed shards. CLIP's paper retrieves without tuning, and gives no recipe; the learning
rate here is ALBEF's. Not measured.
"""

from configs.systems import clip
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.training import TrainConfig


def config() -> TrainConfig:
    """10 epochs of Flickr30K at global batch 512."""
    run = clip.config()
    run.data.batch_size, run.data.crop_scale, run.data.flip = 512, (0.5, 1.0), True
    run.optim = OptimConfig(lr=1e-5, min_lr=1e-7, weight_decay=0.1, warmup_steps=0.1, betas=(0.9, 0.98))
    run.run = RunConfig(out="runs/clip-finetuned", steps=2800, precision="bf16", checkpoint_every=500)
    return run
