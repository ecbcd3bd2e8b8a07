"""Pictures to regions: by a Faster R-CNN of torchvision, or by the cells of a timm network's last map."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_tools.found import Found
from vlp.data.errors import DataError

Pictures = list[NDArray[np.uint8]]  # (3, height, width) each
LAST_CLASSES = "roi_heads.box_predictor.cls_score.weight"


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, in float32. Raises DataError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix in (".pth", ".pt", ".bin", ".pkl"):
        raise DataError(f"{path} could run code when read; make a safetensors file of it (`vlp data regions --help`)")
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read as safetensors ({error})") from error
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def fill(model: Any, weights: dict[str, Tensor], path: Path) -> Any:
    """The model with these weights, ready to run. Raises DataError where they are another model's."""
    try:
        missing, strange = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise DataError(f"{path} does not fit the model: {str(error).splitlines()[-1].strip()}") from error
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or strange:
        raise DataError(f"{path} does not fit the model: it lacks {missing[:3]}, and has {list(strange)[:3]} beyond it")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


# ---------------------------------------------------------------- detectors


def detector(name: str, weights: Path, top: int, threshold: float) -> Callable[[Pictures], list[Found]]:
    """A Faster R-CNN that gives at most `top` regions a picture. Raises DataError."""
    import torchvision

    tensors = read_weights(weights)
    if not name.startswith("fasterrcnn") or name not in torchvision.models.list_models():
        known = [m for m in torchvision.models.list_models(torchvision.models.detection) if m.startswith("fasterrcnn")]
        raise DataError(f"--detector {name!r} is not known; choose of {', '.join(known)}")
    if LAST_CLASSES not in tensors:
        raise DataError(f"{weights} has no {LAST_CLASSES}: it is no Faster R-CNN of torchvision")
    classes = len(tensors[LAST_CLASSES])
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=classes)
    model = fill(model, tensors, weights)
    model.roi_heads.detections_per_img, model.roi_heads.score_thresh = top, threshold
    return partial(detect, model)


def coco_names(weights: Path) -> list[str] | None:
    """Names of COCO's 90 numbers, where the weights are for so many classes."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_V2_Weights

    classes = len(read_weights(weights)[LAST_CLASSES])
    names: list[str] = FasterRCNN_ResNet50_FPN_V2_Weights.DEFAULT.meta["categories"][1:]
    return names if classes == len(names) + 1 else None


@torch.inference_mode()
def detect(model: Any, pictures: Pictures) -> list[Found]:
    """Regions of pictures of any size. Features are those that the class was read from, at the final box.

    Where nothing is detected the whole picture is the one region.
    """
    device = next(model.parameters()).device
    images, _ = model.transform([torch.from_numpy(picture).to(device).float() / 255 for picture in pictures])
    maps = model.backbone(images.tensors)
    proposals, _ = model.rpn(images, maps)
    heads, sizes = model.roi_heads, images.image_sizes
    detections, _ = heads(maps, proposals, sizes)
    boxes = []
    for found, (height, width) in zip(detections, sizes, strict=True):
        whole = torch.tensor([[0.0, 0.0, width, height]], device=device)
        boxes.append(found["boxes"] if len(found["boxes"]) else whole)
    features = heads.box_head(heads.box_roi_pool(maps, boxes, sizes))
    probs = heads.box_predictor(features)[0].softmax(1)[:, 1:]  # class 0 is background
    probs = probs / probs.sum(1, keepdim=True).clamp_min(1e-12)
    counts = [len(box) for box in boxes]
    found_all = []
    for box, feature, prob, (height, width) in zip(
        boxes, features.split(counts), probs.split(counts), sizes, strict=True
    ):
        shares = box / torch.tensor([width, height, width, height], device=device)
        found_all.append(Found(feature.cpu().numpy(), shares.cpu().numpy(), prob.cpu().numpy()))
    return found_all


# ---------------------------------------------------------------- grids


def grid(name: str, weights: Path, size: int) -> Callable[[Pictures], list[Found]]:
    """A network of timm whose last map's cells are the regions. Raises DataError."""
    import timm

    try:
        model = timm.create_model(name, pretrained=False)
    except (RuntimeError, ValueError) as error:
        raise DataError(f"--grid {name!r} is no network of timm ({error})") from error
    model = fill(model, read_weights(weights), weights)
    return partial(look_at_cells, model, size)


@torch.inference_mode()
def look_at_cells(model: Any, size: int, pictures: Pictures) -> list[Found]:
    """Every cell of the last map: its feature, its place, and what the network's own head says of it alone."""
    from vlp.data.config import DataConfig
    from vlp.data.images import normalise, resize

    device = next(model.parameters()).device
    scales = DataConfig(mean=model.default_cfg["mean"], std=model.default_cfg["std"])
    batch = torch.stack([normalise(resize(torch.from_numpy(p), size), scales) for p in pictures])
    maps = model.forward_features(batch.to(device))
    if maps.ndim != 4 or maps.shape[1] != model.num_features:
        raise DataError(
            f"--grid {type(model).__name__}: its last map {tuple(maps.shape)} is no grid of (D, rows, columns)"
        )
    count, width, rows, columns = maps.shape
    cells = maps.flatten(2).transpose(1, 2)  # (B, rows x columns, D)
    probs = model.forward_head(cells.reshape(-1, width, 1, 1)).softmax(1).view(count, rows * columns, -1)
    boxes = cell_boxes(rows, columns)
    return [Found(c.cpu().numpy(), boxes, p.cpu().numpy()) for c, p in zip(cells, probs, strict=True)]


def cell_boxes(rows: int, columns: int) -> NDArray[np.float64]:
    """(rows x columns, 4): the cells of a grid, row by row, as shares."""
    y, x = np.divmod(np.arange(rows * columns), columns)
    return np.stack([x / columns, y / rows, (x + 1) / columns, (y + 1) / rows], axis=1)
