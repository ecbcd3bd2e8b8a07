"""No objective encodes what another already encoded: in a step of any system no layer sees one input twice."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.systems import SYSTEMS, make
from vlp.task import Task
from vlp.types import Batch

# UNIMO reads a caption with its picture twice: in the contrast each word reads all others, in captioning those before
# it alone. From the first attention on the two passes differ; what its projection is given is the same.
INHERENT = {("unimo", "model.fusion.layers.0.attention.qkv", 2)}


def calls_of_a_step(task: Task, batch: Batch) -> Counter[tuple[str, tuple[int, ...], int]]:
    """How often each linear layer and convolution, the teacher's included, was given each input in a forward pass."""
    calls: Counter[tuple[str, tuple[int, ...], int]] = Counter()

    def note(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            calls[(name, tuple(inputs[0].shape), hash(inputs[0].detach().numpy().tobytes()))] += 1

        return hook

    hooks = [
        module.register_forward_pre_hook(note(name))
        for name, module in task.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and not name.endswith("vision.box")  # 4 to 7 numbers a region
    ]
    torch.manual_seed(0)
    task(batch)
    for hook in hooks:
        hook.remove()
    return calls


@pytest.mark.parametrize("name", SYSTEMS)
def test_nothing_is_encoded_twice(name: str) -> None:
    task, batch = make(name)
    task.train()
    task.mix = None  # all objectives in one step
    calls = calls_of_a_step(task, batch)
    twice = {(name, layer, count) for (layer, _, _), count in calls.items() if count > 1}
    surprising = sorted(f"{layer}, {count} times" for _, layer, count in twice - INHERENT)
    assert not surprising, f"{name}: {len(surprising)} layers, first {', '.join(surprising[:6])}"
    assert {known for known in INHERENT if known[0] == name} <= twice  # else it is to be struck off


def test_a_picture_encoded_again_is_found() -> None:
    task, batch = make("albef")
    inner = task.objectives["itm"].forward
    task.objectives["itm"].forward = lambda view: (view.model.encode_image(view.batch), inner(view))[1]  # type: ignore
    calls = calls_of_a_step(task, batch)
    assert any(layer.startswith("model.vision") for (layer, _, _), count in calls.items() if count > 1)
