"""Oscar's contrast: are the tags this picture's own? (Li 2020, section 3.2; VinVL, Zhang 2021, appendix, three ways)"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlp.layers import draws
from vlp.objectives import negatives
from vlp.types import Batch, Loss, Tags
from vlp.view import View


def corrupted(kinds: Tensor, ways: int, wrong_text: float) -> Tensor:
    """(B,) uniform draws -> (B,) labels: half 0 (all right); else 1 (wrong tags) or, at three ways, 2 (wrong text) with
    the share `wrong_text` of all."""
    label = (kinds >= 0.5).long()
    return torch.where(kinds >= 1 - wrong_text, 2, label) if ways == 3 else label


class TagContrast(nn.Module):
    """Half of the pairs keep their tags and words; of the others some get another picture's tags, and at three ways
    some another picture's caption. A head on the fused summary tells which.

    Needs `VLModel(tags=True)`. Other pictures come from the local batch and never share the image id.
    """

    def __init__(self, *, width: int, ways: int = 2, wrong_text: float = 0.25, weight: float = 1.0) -> None:
        super().__init__()
        if ways not in (2, 3):
            raise ValueError(f"ways {ways} is neither 2 (Oscar) nor 3 (VinVL)")
        self.ways = ways
        self.wrong_text = wrong_text
        self.weight = weight
        self.classifier = nn.Linear(width, ways)
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, view: View) -> Loss:
        """Cross entropy and accuracy over the pairs that have somebody to exchange with."""
        batch = view.batch
        ids = batch.image_id
        other, allowed = negatives.sample_negatives(torch.zeros(len(ids), len(ids), device=ids.device), ids)
        draw = draws.uniform(len(ids), 1, device=ids.device)[:, 0]
        label = corrupted(draw, self.ways, self.wrong_text) * allowed
        own = torch.arange(len(ids), device=ids.device)
        text = torch.where(label == 2, other, own)
        pictures = own if batch.image_row is None else batch.image_row
        seen = view.seen if batch.image_row is None else view.seen.select(pictures)
        image = view.model.with_tags(seen, tags_of(batch, pictures[torch.where(label == 1, other, own)]))
        summary = view.model.summarize(view.text.select(text), view.model.prepare_image(image), own)
        logits = self.classifier(summary).float()
        value = F.cross_entropy(logits, label)
        right = (logits.argmax(1) == label).float().mean()
        return Loss(value, {"tags": value.detach(), "tags_accuracy": right})


def tags_of(batch: Batch, pictures: Tensor) -> Tags:
    """The tags of the rows `pictures` (B,) of the batch's pictures."""
    if batch.tags is None:
        raise ValueError("the tag contrast needs tags; set data.use_tags=true and give shards that hold them")
    return Tags(batch.tags.ids[pictures], batch.tags.mask[pictures])
