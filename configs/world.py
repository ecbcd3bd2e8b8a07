"""What the tiny systems share: the synthetic world's words and regions, their size, and how long they train."""

from typing import Any

from vlp.config import lazy
from vlp.data.config import DataConfig
from vlp.engine.optim import OptimConfig
from vlp.engine.run import RunConfig
from vlp.fusion.one_stream import OneStream
from vlp.model import VLModel
from vlp.retrieval.config import EvaluationConfig
from vlp.similarity.matching import MatchingHead
from vlp.text.bert import BertText
from vlp.training import TrainConfig
from vlp.vision.patch_cnn import PatchCNN
from vlp.vision.vit import TimmViT

WORDS: dict[str, Any] = {"vocab_size": 160, "mask_id": 4, "first_word_id": 5}
BERT: dict[str, Any] = {"vocab_size": 30522, "mask_id": 103, "first_word_id": 999}
ROBERTA: dict[str, Any] = {"vocab_size": 50265, "mask_id": 50264, "first_word_id": 4}
WIDTH, HEADS, LAYERS = 96, 4, 4
IMAGE, PATCH = 48, 16
FEATURES, CLASSES = 64, 7  # of the world's regions
LABELS = [[28], [88], [104], [90], [31], [76], [69]]  # word pieces of the classes' names, in their order
# In a small model fused tokens find a short cut, and a tenth of the weight teaches no pointing (docs/decisions.md).
ALIGNMENT: dict[str, Any] = {"weight": 1.0, "fused": False}
CNN: dict[str, Any] = {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 64], "out_indices": [3]}  # 3 x 3 cells
FINE_CNN: dict[str, Any] = {"layers": [1, 1, 1], "channels": [16, 32, 64], "out_indices": [2]}  # 6 x 6 cells


def tiny(name: str, model: Any, objectives: dict[str, Any], teacher: Any = None, **data: Any) -> TrainConfig:
    """A run on the synthetic world; `data` are fields of DataConfig."""
    settings: dict[str, Any] = {
        "train": "data/world/train",
        "val": "data/world/val",
        "image_size": IMAGE,
        "max_length": 40,
        "batch_size": 32,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
    }
    return TrainConfig(
        model=model,
        objectives=objectives,
        teacher=teacher,
        data=DataConfig(**(settings | data)),
        optim=OptimConfig(lr=1.5e-3, min_lr=1e-5, warmup_steps=100, betas=(0.9, 0.98)),
        run=RunConfig(out=f"runs/{name}-tiny", steps=2000, checkpoint_every=500),
        evaluation=EvaluationConfig(limit=20),
    )


def words(vocabulary: dict[str, Any], width: int, layers: int = 0, heads: int = 12, **options: Any) -> Any:
    """A BERT of a size for a vocabulary; small vocabularies get 48 positions and no dropout."""
    small: dict[str, Any] = {"max_positions": 48, "dropout": 0.0} if vocabulary is WORDS else {}
    return lazy(BertText)(
        vocab_size=vocabulary["vocab_size"], width=width, layers=layers, heads=heads, **(small | options)
    )


def one_stream(vision: Any, vocabulary: dict[str, Any], width: int, layers: int, heads: int, **options: Any) -> Any:
    """BERT over words and any image tokens, with a matching head; `options` tags=True reads tags as well."""
    tags = bool(options.pop("tags", False))
    dropout = 0.0 if vocabulary is WORDS else 0.1
    return lazy(VLModel)(
        vision=vision,
        text=words(vocabulary, width, heads=heads, tags=tags),
        fusion=lazy(OneStream)(
            width=width, layers=layers, heads=heads, dropout=dropout, **({"post_norm": True} | options)
        ),
        similarities={"itm": lazy(MatchingHead)(width=width)},
        tags=tags,
    )


def small_vit(depth: int = 4) -> Any:
    """A vision transformer of the world's size."""
    options = {"patch_size": PATCH, "embed_dim": WIDTH, "depth": depth, "num_heads": HEADS, "weight_init": "jax"}
    return lazy(TimmViT)(name="vit_tiny_patch16_224", image_size=IMAGE, options=options)


def small_patch_cnn(grids: list[int]) -> Any:
    """A network that trains and sees patches of the world's size one by one."""
    options = {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 64]}
    return lazy(PatchCNN)(
        name="resnet18",
        image_size=IMAGE,
        width=WIDTH,
        grids=grids,
        patch_size=PATCH,
        norm="group",
        trains=True,
        options=options,
    )
