"""BriVL, of the WenLan project: bridging vision and language by large-scale pre-training (Huo 2021, arXiv 2103.06561).

A dual encoder: an EfficientNet-B5's map read in 36 boxes and the whole, four layers of attention among them; a Chinese
RoBERTa and four layers more; the mean of each side. Each embedding is told from 9,600 of a momentum encoder's in a
queue (MoCo), temperature 0.07.

    accelerate launch -m pretrain configs/systems/brivl.py data.train=SHARDS data.tokenizer=TOKENIZER

Data: RUC-CAS-WenLan, 30M Chinese pairs, not public, as shards with regions, of which the boxes are read; the tokenizer
is that of a Chinese BERT. Published: results on its own Chinese benchmarks and AIC-ICC, none on COCO or Flickr30K.

Deliberately different: every layer trains, where the published run trains the last four of RoBERTa and the last blocks
of the network; the four layers behind RoBERTa are BERT's (3,072 inside, not 2,048), and vectors between the two are
not brought to unit length; one linear layer, not two, gives an embedding; no batch is shuffled between ranks, since
batch norms are constants; entries of the queue that show the query's own picture are no negatives.
"""

from typing import Any

from configs import world
from configs.facts import System
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.model import VLModel
from vlp.objectives.queue_contrast import QueueContrast
from vlp.pooling.tokens import MeanPool
from vlp.retrieval.config import EvaluationConfig
from vlp.similarity.cosine import CosineSimilarity
from vlp.teacher import Teacher
from vlp.training import TrainConfig
from vlp.vision.roi_grid import RoiGrid

SYSTEM = System(
    name="BriVL (WenLan)",
    paper="2103.06561",
    shape="dual encoder, boxes on a convolutional map",
    data="30M Chinese pairs; boxes",
    reason="The paper's 1,000 are those of larger encoders and their momentum copies; the released code's settings "
    "are those here, and it gives no count",
)
CHINESE: dict[str, Any] = {"vocab_size": 21128, "mask_id": 103, "first_word_id": 106}


def parts(
    vision: Any, text: Any, image_width: int, text_width: int, embed_dim: int, queue: int
) -> tuple[Any, dict[str, Any], Any]:
    """(model, objectives, teacher) around two encoders."""
    similarity = lazy(CosineSimilarity)(
        image_width=image_width,
        text_width=text_width,
        embed_dim=embed_dim,
        learned=False,
        image_pool=lazy(MeanPool)(),
        text_pool=lazy(MeanPool)(),
    )
    model = lazy(VLModel)(vision=vision, text=text, similarities={"itc": similarity})
    teacher = lazy(Teacher)(momentum=0.99, queue_size=queue, alpha=0.0, random_queue=True)
    return model, {"moco": lazy(QueueContrast)()}, teacher


def config() -> TrainConfig:
    """The released settings: 456 px, 80 tokens."""
    vision = lazy(RoiGrid)(name="tf_efficientnet_b5", image_size=456, hidden=2048, points=4)
    model, objectives, teacher = parts(vision, world.words(CHINESE, 768, 16), 2048, 768, 2048, 9600)
    return TrainConfig(
        model=model,
        objectives=objectives,
        teacher=teacher,
        data=DataConfig(image_size=456, max_length=80, batch_size=192, workers=8, use_regions=True),
        optim=OptimConfig(lr=1e-4, min_lr=0.0, weight_decay=1e-5, warmup_steps=2000),
        run=RunConfig(out="runs/brivl", steps=1_000_000, precision="bf16", checkpoint_every=5000),
        evaluation=EvaluationConfig(k=0),
    )


def tiny() -> TrainConfig:
    """The same system at width 96 on the synthetic world, 256 embeddings in the queue."""
    options = {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 64]}
    vision = lazy(RoiGrid)(
        name="resnet18",
        image_size=world.IMAGE,
        width=world.WIDTH,
        layers=2,
        heads=world.HEADS,
        points=3,
        dropout=0.0,
        norm="group",
        options=options,
    )
    text = world.words(world.WORDS, world.WIDTH, 3, world.HEADS)
    return world.tiny("brivl", *parts(vision, text, world.WIDTH, world.WIDTH, 64, 256), use_regions=True)
