"""Word-patch alignment: the signed mean over rows."""

import torch

from vlp.objectives.alignment import alignment_loss


def test_matched_pull_unmatched_push_and_weightless_rows_count_for_nothing() -> None:
    distance = torch.tensor([0.5, 0.25, 0.75, 100.0])
    label, weight = torch.tensor([1, 1, 0, 0]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert abs(float(alignment_loss(distance, label, weight)) - (0.5 + 0.25 - 0.75) / 3) < 1e-6
