"""Fast and slow tuned for retrieval (Miech 2021, arXiv 2103.16553): the slow one teaches the fast one, then re-ranks.

    accelerate launch -m finetune configs/finetune/fast_slow.py init=RUN data.train=SHARDS/train data.val=SHARDS/val
    accelerate launch -m finetune.evaluate runs/fast_slow-finetuned --data SHARDS/test
    vlp finetune configs/finetune/fast_slow.py:tiny init=runs/fast_slow-tiny

Data: COCO or Flickr30K as indexed shards. `--k 0` is the distilled fast model alone; `--mix` is the paper's beta, here
0.05 logits of the fast one beside the slow one's mean over words, to be chosen on val. Published: recalls of Flickr30K,
which were not verified here and are not reproduced: that takes the pre-trained weights.

Deliberately different: both models are tuned together, where the paper has the slow one trained before it teaches; the
learning rate is ALBEF's.
"""

from configs.systems import fast_slow
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.training import TrainConfig


def config() -> TrainConfig:
    """10 epochs of Flickr30K at global batch 512."""
    run = fast_slow.config()
    run.data.batch_size = 512
    run.optim = OptimConfig(lr=1e-5, min_lr=1e-7, weight_decay=0.01, warmup_steps=0.1)
    run.run = RunConfig(out="runs/fast_slow-finetuned", steps=2800, precision="bf16", checkpoint_every=500)
    return run


def tiny() -> TrainConfig:
    """The same on the synthetic world."""
    run = fast_slow.tiny()
    run.optim = OptimConfig(lr=3e-4, min_lr=1e-5, warmup_steps=50, betas=(0.9, 0.98))
    run.run = RunConfig(out="runs/fast_slow-tiny-finetuned", steps=500, checkpoint_every=250)
    return run
