"""NCR: learning with noisy correspondence (Huang 2021, NeurIPS), around two networks of SGRAF's graph.

Each network is told by the other which pairs to trust; a pair's worth becomes its margin. The average of the two is
what retrieves.

    accelerate launch -m pretrain configs/finetune/ncr.py data.train=SHARDS/train data.tokenizer=TOKENIZER

Data: Flickr30K or COCO as indexed shards with 36 regions a picture, caption ids below the objective's `captions`.
Published with 40 % of Flickr30K's pairs shuffled: see the paper. Not reproduced here: `benchmarks/survey.py --noise`
compares it with SGRAF on other data.

Deliberately different: the losses that are divided are those of the training steps, where the paper passes over the
data once more; no clean share is forced to leave one per cent to the noisy.
"""

from typing import Any

from configs import matching
from configs.facts import Matching
from configs.matching import Stem
from vlp.config import lazy
from vlp.objectives.correspondence import NoisyCorrespondence
from vlp.pooling.tokens import MeanPool
from vlp.similarity.alignment import AlignmentReasoning
from vlp.similarity.ensemble import Ensemble
from vlp.training import TrainConfig

MATCHING = Matching(
    name="NCR",
    paper="NeurIPS 2021",
    family="noise",
    shape="two graphs of alignment vectors that divide the pairs for each other, soft margins",
    caveat="measured on Flickr8k around two networks of VSE++",
)


def parts(network: Any, stem: Stem, squash: bool = True, **schedule: int) -> tuple[Any, dict[str, Any]]:
    """(model, objectives) of two networks of one form, on any two encoders."""
    loss = lazy(NoisyCorrespondence)(squash=squash, **schedule)
    return stem.model(match=lazy(Ensemble)(parts=[network, network])), {"ncr": loss}


def graphs(stem: Stem, captions: int, epoch_steps: int, epochs: int, warmup: int) -> tuple[Any, dict[str, Any]]:
    """`parts` around SGRAF's graph, for so many captions and epochs, the first `warmup` of them easy."""
    scorer = lazy(AlignmentReasoning)(width=stem.embed_dim, align_dim=min(256, stem.embed_dim))
    return parts(
        matching.tokens(stem, scorer),
        stem,
        captions=captions,
        epoch_steps=epoch_steps,
        warmup_steps=warmup * epoch_steps,
        doubtful_steps=epochs * epoch_steps // 2,
    )


def config() -> TrainConfig:
    """Published recipe on region features: 40 epochs, 5 of them easy."""
    made = graphs(matching.PAPER, captions=160_000, epoch_steps=1133, epochs=40, warmup=5)
    return matching.paper("ncr", made, epochs=40)


def tiny() -> TrainConfig:
    """On the synthetic world."""
    return matching.tiny("ncr", graphs(matching.WORLD, captions=320_000, epoch_steps=150, epochs=10, warmup=1))


def frozen() -> TrainConfig:
    """On frozen tokens of Flickr8k, around two networks of VSE++: gradients of all pairs of two graphs take hours on a
    CPU."""
    network = matching.vector(matching.FROZEN, lazy(MeanPool)(), lazy(MeanPool)())
    schedule = {"captions": 60_000, "epoch_steps": 250, "warmup_steps": 500, "doubtful_steps": 1500}
    return matching.frozen("ncr", parts(network, matching.FROZEN, squash=False, **schedule))
