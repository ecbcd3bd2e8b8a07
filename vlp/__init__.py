"""vlp: vision-language pre-training for image-text retrieval.

    model = vlp.load("exported/model")
    scores = model.score(["beach.jpg", "office.jpg"], ["a dog runs on the beach", "two people at a desk"])

`load` and the version are all that lives here, and importing vlp imports no torch. Everything else is imported from
the file where it lives, so every other `__init__.py` is empty.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlp.loading import RetrievalModel

__version__ = "0.1.0"


def load(folder: Path | str, device: str | None = None) -> "RetrievalModel":
    """An exported model (`vlp export CHECKPOINT FOLDER`), on the GPU where there is one unless `device` says otherwise.

    Raises ExportError for a folder that is no export, is damaged, or needs another version of vlp.
    """
    from vlp.loading import load_exported

    return load_exported(folder, device)
