"""The regions of one picture, as an extractor or a file gives them, in the layout of the shards."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


@dataclass
class Found:
    """Regions of a picture."""

    features: Floats  # (R, D)
    boxes: Floats  # (R, 4): x1 y1 x2 y2 as shares of the picture's sides
    class_probs: Floats  # (R, C): without background; one column of ones where no class is known

    def to_bytes(self) -> bytes:
        """The safetensors file. Raises ValueError where there are no regions, or arrays that do not fit each other."""
        from safetensors.numpy import save

        counts = {len(self.features), len(self.boxes), len(self.class_probs)}
        if len(counts) != 1 or 0 in counts:
            raise ValueError(f"{len(self.features)} features, {len(self.boxes)} boxes, {len(self.class_probs)} classes")
        with np.errstate(over="ignore"):
            tensors = {
                "features": np.ascontiguousarray(self.features, dtype=np.float16),
                "boxes": np.ascontiguousarray(np.clip(self.boxes, 0, 1), dtype=np.float32),
                "class_probs": np.ascontiguousarray(self.class_probs, dtype=np.float16),
            }
        data: bytes = save(tensors)
        return data

    def tags(self, names: list[str], threshold: float) -> list[str]:
        """Names of the classes that some region has with this probability, the likeliest first.

        Raises ValueError where there are not as many names as classes.
        """
        if len(names) != self.class_probs.shape[1]:
            raise ValueError(
                f"{len(names)} names of classes, but regions have {self.class_probs.shape[1]}; see --classes"
            )
        best, likely = self.class_probs.argmax(1), self.class_probs.max(1)
        order = np.argsort(-likely, kind="stable")
        return list(dict.fromkeys(names[best[i]] for i in order.tolist() if likely[i] >= threshold))
