"""What the retrieval heads of `configs/finetune/` share: the encoders that they stand on, and how long they train.

Every head is `parts(stem)`, so that one file serves three stems: detector regions and a recurrent text encoder as the
papers had them (`PAPER`), the same at the synthetic world's size (`WORLD`), and tokens of frozen pretrained encoders
(`FROZEN`), which can be cached on disk, so that a head trains in minutes on a CPU.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from configs import flickr8k, world
from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.layers.chain import Chain
from vlp.model import VLModel
from vlp.reasoning.adapter import TokenAdapter
from vlp.retrieval.config import EvaluationConfig
from vlp.similarity.token_pairs import TokenSimilarity
from vlp.similarity.vector import VectorSimilarity
from vlp.text.bert import BertText
from vlp.text.recurrent import RecurrentText
from vlp.training import TrainConfig
from vlp.vision.region_features import RegionFeatures


@dataclass(frozen=True)
class Stem:
    """Two encoders, the widths of their tokens, and the width in which their heads meet."""

    vision: Any
    text: Any
    image_width: int
    text_width: int
    embed_dim: int
    dropout: float = 0.0
    standardize: bool = False  # frozen features are brought to one scale
    vocabulary: int = 30522
    max_length: int = 40
    data: dict[str, Any] = field(default_factory=dict)  # fields of DataConfig

    def adapter(self, side: str, **options: Any) -> Any:
        """Tokens of the side "image" or "text" at the common width."""
        chosen = {"embed_dim": self.embed_dim, "dropout": self.dropout, "standardize": self.standardize} | options
        return lazy(TokenAdapter)(width=self.image_width if side == "image" else self.text_width, **chosen)

    def model(self, **similarities: Any) -> Any:
        """The model with these similarities on top."""
        return lazy(VLModel)(vision=self.vision, text=self.text, similarities=similarities)


def chain(*parts: Any) -> Any:
    """Parts one after another."""
    return lazy(Chain)(parts=list(parts))


def vector(stem: Stem, image_pool: Any, text_pool: Any, **options: Any) -> Any:
    """A vector similarity: tokens of each side at the common width, pooled."""
    image, text = chain(stem.adapter("image"), image_pool), chain(stem.adapter("text"), text_pool)
    return lazy(VectorSimilarity)(image=image, text=text, **options)


def tokens(stem: Stem, scorer: Any) -> Any:
    """A token similarity: tokens of each side at the common width, of length 1, and a scorer."""
    image, text = stem.adapter("image", unit=True), stem.adapter("text", unit=True)
    return lazy(TokenSimilarity)(image=image, text=text, scorer=scorer)


PAPER = Stem(
    vision=lazy(RegionFeatures)(feature_width=2048),
    text=lazy(RecurrentText)(vocab_size=30522, word_width=300, width=1024),
    image_width=2048,
    text_width=1024,
    embed_dim=1024,
    data={"use_regions": True, "use_pictures": False, "max_length": 60},
)
WORLD = Stem(
    vision=lazy(RegionFeatures)(feature_width=world.FEATURES, box_form=4),
    text=lazy(RecurrentText)(vocab_size=world.WORDS["vocab_size"], word_width=64, width=128),
    image_width=world.FEATURES + 4,
    text_width=128,
    embed_dim=128,
    vocabulary=world.WORDS["vocab_size"],
    data={"use_regions": True, "use_pictures": False},
)
FROZEN = Stem(
    vision=flickr8k.vision(),  # one folder of cached features serves both; heads read the last level
    text=lazy(BertText)(width=384, layers=6, heads=12, weights=flickr8k.TEXT, frozen_layers=6),
    image_width=384,
    text_width=384,
    embed_dim=128,  # pairs of every scorer in minutes on a CPU
    dropout=0.2,
    standardize=True,
    max_length=30,
)


def one_way(stem: Stem) -> Stem:
    """The stem with a GRU that reads forwards alone, whose last state is the caption (VSE++, DeViSE)."""
    if stem.text.target is not RecurrentText:
        return stem
    kwargs = {"vocab_size": stem.text.get("vocab_size"), "word_width": stem.text.get("word_width")}
    return replace(stem, text=lazy(RecurrentText)(width=stem.text_width, both_ways=False, **kwargs))


def paper(
    name: str,
    parts: tuple[Any, dict[str, Any]],
    *,
    lr: float = 2e-4,
    epochs: int = 30,
    batch_size: int = 128,
    captions: int = 0,
    **optim: Any,
) -> TrainConfig:
    """A run of the published length on Flickr30K: 145,000 pairs an epoch. The field divides the rate by ten half way;
    this engine lets it fall along a cosine."""
    model, objectives = parts
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(batch_size=batch_size, captions=captions, workers=4, **PAPER.data),
        optim=OptimConfig(**({"lr": lr, "min_lr": lr / 100, "weight_decay": 0.0, "clip": 2.0} | optim)),
        run=RunConfig(out=f"runs/{name}", steps=epochs * 145_000 // batch_size, checkpoint_every=1000),
        evaluation=EvaluationConfig(k=0),
    )


def tiny(name: str, parts: tuple[Any, dict[str, Any]], **data: Any) -> TrainConfig:
    """The same head on the regions of the synthetic world, for a laptop."""
    model, objectives = parts
    run = world.tiny(name, model, objectives, **(WORLD.data | {"batch_size": 64} | data))
    run.optim = OptimConfig(lr=1e-3, min_lr=1e-5, warmup_steps=50, weight_decay=0.0, clip=2.0)
    run.run = RunConfig(out=f"runs/{name}-tiny", steps=1500, checkpoint_every=500)
    run.evaluation = EvaluationConfig(k=0, limit=200)
    return run


def frozen(name: str, parts: tuple[Any, dict[str, Any]], **data: Any) -> TrainConfig:
    """The same head on frozen tokens of Flickr8k, cached by `vlp data features configs/finetune/NAME.py:frozen ...`."""
    model, objectives = parts
    settings: dict[str, Any] = {
        "train": "data/flickr8k-features/train",
        "val": "data/flickr8k/val",
        "tokenizer": flickr8k.TEXT,
        "image_size": 224,
        "max_length": FROZEN.max_length,
        "batch_size": 128,
        "use_features": True,
    }
    return TrainConfig(
        model=model,
        objectives=objectives,
        data=DataConfig(**(settings | data)),
        optim=OptimConfig(
            lr=5e-4, min_lr=1e-5, warmup_steps=50, weight_decay=0.01, clip=2.0, lr_scale={"model.vision": 0.0}
        ),
        run=RunConfig(out=f"runs/{name}-flickr8k", steps=1000, checkpoint_every=250),
        evaluation=EvaluationConfig(k=0),
    )
