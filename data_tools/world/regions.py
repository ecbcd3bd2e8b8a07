"""What a detector would say of a scene: noisy boxes, features that carry the attributes, class probabilities."""

import numpy as np
import torch
from safetensors.torch import save

from data_tools.world.scene import COLOURS, SHAPES, SIZES, TEXTURES, Scene

WIDTH = 64
CLASSES = len(SHAPES) * len(COLOURS)
_SIZES = (len(SHAPES), len(COLOURS), len(SIZES), len(TEXTURES))
# One fixed random basis: the "detector" of this world is the same for every data set.
_BASIS = np.random.default_rng(20220313).normal(size=(sum(_SIZES), WIDTH)) / np.sqrt(len(_SIZES))


def region_bytes(scene: Scene, random: np.random.Generator) -> bytes:
    """A safetensors file: features (R, 64), boxes (R, 4), class_probs (R, 42), one region an object, fp16."""
    features, boxes, probabilities = [], [], []
    for thing in scene.things:
        places = (
            SHAPES.index(thing.shape),
            list(COLOURS).index(thing.colour),
            list(SIZES).index(thing.size),
            TEXTURES.index(thing.texture),
        )
        rows = [place + sum(_SIZES[:i]) for i, place in enumerate(places)]
        features.append(_BASIS[rows].sum(0) + random.normal(0, 0.25, WIDTH))
        boxes.append(np.clip(np.array(thing.box()) + random.normal(0, 0.01, 4), 0, 1))
        logits = random.normal(0, 1, CLASSES)
        logits[thing.class_id()] += 6
        probabilities.append(np.exp(logits) / np.exp(logits).sum())
    tensors = {"features": features, "boxes": boxes, "class_probs": probabilities}
    return save({name: torch.tensor(np.array(rows), dtype=torch.float16) for name, rows in tensors.items()})
