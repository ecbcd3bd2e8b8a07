"""What an object detector would say of a scene: a noisy box, feature and class guess for every thing.

A feature is a fixed random projection of a region's looks plus noise: enough to tell the looks, never to read them off.
The last region is the whole picture, which carries the background. Classes are the shapes, and `picture` for that one.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from data_tools.world.scene import ATTRIBUTES, BACKGROUNDS, LOOKS, SHAPES, Scene

Floats = NDArray[np.floating[Any]]

WIDTH = 64
CLASSES = (*SHAPES, "picture")
FEATURE_NOISE = 0.35  # against looks of about unit length each
BOX_NOISE = 0.008  # share of the picture's side
CLASS_NOISE, CLASS_MARGIN = 1.0, 4.0  # of the logits: the right class wins about 98 times in 100
FACTS = tuple((name, value) for name in LOOKS for value in ATTRIBUTES[name]) + tuple(
    ("background", value) for value in BACKGROUNDS
)


def regions(scene: Scene, boxes: Floats) -> bytes:
    """The safetensors file of a picture: features (R, 64) fp16, boxes (R, 4), class_probs (R, 7); R = things + 1.

    `boxes` are the true ones, x1 y1 x2 y2 as shares.
    """
    random = np.random.default_rng([scene.grain, 1])
    looks = [[FACTS.index((name, getattr(thing, name))) for name in LOOKS] for thing in scene.things]
    looks.append([FACTS.index(("background", scene.background))])
    features = np.stack([projection()[rows].sum(0) for rows in looks])
    features += FEATURE_NOISE * random.standard_normal(features.shape, dtype=np.float32)
    found = np.concatenate([boxes, [[0, 0, 1, 1]]])
    found[:-1] = np.clip(found[:-1] + BOX_NOISE * random.standard_normal(boxes.shape), 0, 1)
    classes = [CLASSES.index(thing.shape) for thing in scene.things] + [len(CLASSES) - 1]
    logits = CLASS_NOISE * random.standard_normal((len(classes), len(CLASSES)), dtype=np.float32)
    logits[np.arange(len(classes)), classes] += CLASS_MARGIN
    shares = np.exp(logits)
    data: bytes = save(
        {
            "features": features.astype(np.float16),
            "boxes": found.astype(np.float32),
            "class_probs": (shares / shares.sum(1, keepdims=True)).astype(np.float32),
        }
    )
    return data


@cache
def projection() -> Floats:
    """(facts, 64): the direction of each look, the same for every world."""
    return np.asarray(np.random.default_rng(0).normal(0, 1 / 3, (len(FACTS), WIDTH)), np.float32)
