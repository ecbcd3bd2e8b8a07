"""IAIS: inter-modal alignment on intra-modal self-attentions (Ren 2021, arXiv 2105.13868), on UNITER.

Beside UNITER's ranking: in the last layer words are to attend to each other as the regions that they look at do.

    accelerate launch -m finetune configs/finetune/iais.py init=RUN data.train=SHARDS/train data.val=SHARDS/val

Data: COCO or Flickr30K as indexed shards with region features. `objectives.relations.kind=distributed` is the paper's
other form; whoever changes run.steps changes objectives.relations.total_steps with it. Published, UNITER-large,
singular: Flickr30K TR/IR R@1 88.3/76.9, COCO 5K 67.8/53.2. Not reproduced here: that takes the pre-trained weights.

Deliberately different: the base size and the rivals of `uniter.py`, pictures alone; words and regions are the anchor on
alternate steps, where the paper's code alternates between the eight batches that make a step; there the alignments of
the eight are summed and their rankings averaged, here both are means.
"""

from configs.facts import Matching
from configs.finetune import uniter
from configs.systems import uniter as pretrained
from vlp.config import lazy, override
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.objectives.fused_ranking import FusedRanking
from vlp.objectives.negatives import RandomNegatives
from vlp.objectives.relation_alignment import RelationAlignment
from vlp.training import TrainConfig

MATCHING = Matching(
    name="IAIS",
    paper="2105.13868",
    family="relation-aware",
    shape="one stream over regions, ranking of sigmoids, attentions of words and regions aligned",
    caveat="named by the survey without a number; published, UNITER-large: 88.3/76.9 on Flickr30K, 67.8/53.2 on COCO5K",
)


def config() -> TrainConfig:
    """5,000 steps, as published."""
    run = uniter.config()
    run.objectives["relations"] = lazy(RelationAlignment)(total_steps=run.run.steps)
    run.run.out = "runs/iais"
    return run


def tiny() -> TrainConfig:
    """From nothing on the regions of the synthetic world, for a laptop."""
    run: TrainConfig = override(pretrained.tiny(), ["model.vision.hides=false"])
    steps = 2000
    run.objectives = {
        "rank": lazy(FusedRanking)(negatives=lazy(RandomNegatives)(each=7), hardest=2),
        "relations": lazy(RelationAlignment)(total_steps=steps),
    }
    run.optim = OptimConfig(lr=1e-3, min_lr=1e-5, warmup_steps=100, betas=(0.9, 0.98), clip=2.0)
    run.run = RunConfig(out="runs/iais-tiny", steps=steps, checkpoint_every=500)
    return run
