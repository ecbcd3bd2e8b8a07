"""Picture embeddings kept between searches, one row a picture, valid while model and picture are unchanged."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FOLDER = "search"  # inside the export: a user's picture folder is never written to


class EmbeddingCache:
    """Rows by stamp in one file for each picture folder. A file that cannot be read counts as empty."""

    def __init__(self, export: Path, pictures: Path, fingerprint: str) -> None:
        place = hashlib.sha256(str(pictures.resolve()).encode()).hexdigest()[:16]
        self.path = export / FOLDER / f"{place}.safetensors"
        self.fingerprint = fingerprint

    def read(self) -> dict[str, Tensor]:
        """Rows (E,) by stamp; none when they are of another model."""
        try:
            with safe_open(self.path, framework="pt") as file:
                record = json.loads(file.metadata()["record"])
                rows = file.get_tensor("embeddings")
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return {}
        if record["fingerprint"] != self.fingerprint or len(record["stamps"]) != len(rows):
            return {}
        return dict(zip(record["stamps"], rows, strict=True))

    def write(self, rows: Mapping[str, Tensor]) -> None:
        """Replace the file."""
        if not rows:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        record = {"fingerprint": self.fingerprint, "stamps": list(rows)}
        part = self.path.with_suffix(".part")
        save_file({"embeddings": torch.stack(list(rows.values()))}, part, metadata={"record": json.dumps(record)})
        os.replace(part, self.path)
