"""Weights of a checkpoint into a model: all of them, or those of some parts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from vlp.config import ConfigError, Lazy
from vlp.engine.folder import CONFIG
from vlp.engine.session import MODEL
from vlp.engine.tensors import check_fit, read_tensors, with_one_dimension
from vlp.layers.prompts import own_prompts
from vlp.model import VLModel


def without_weights(value: Any) -> Any:
    """The same recorded calls with every `weights` keyword set to None: parts start at random and read no file."""
    if isinstance(value, Lazy):
        kwargs = {name: without_weights(v) for name, v in value.kwargs.items()}
        return Lazy(value.target, kwargs | ({"weights": None} if "weights" in kwargs else {}))
    if isinstance(value, dict):
        return {name: without_weights(v) for name, v in value.items()}
    return [without_weights(v) for v in value] if isinstance(value, list) else value


def load_weights(model: VLModel, folder: Path, fresh_prompts: bool = False, parts: Sequence[str] = ()) -> None:
    """Fill a model from a checkpoint of the same architecture; position embeddings are resampled to its image size.

    With `fresh_prompts` prompts (`vlp/layers/prompts.py`) that the checkpoint does not have stay as the seed drew them.
    With `parts`, names of the model's state or of what they begin with ("vision", "text.layers"), these alone are
    filled, and the rest of either model may be anything. Raises ConfigError for a part that the model does not have,
    CheckpointError listing the keys that are missing, unexpected or of another shape.
    """
    own = chosen(model.state_dict(), parts)
    unknown = [part for part in parts if not chosen(own, [part])]
    if unknown:
        names = ", ".join(dict.fromkeys(key.split(".")[0] for key in model.state_dict()))
        raise ConfigError(f"init_parts={unknown}: the model has no such part; it has {names}, and their parts")
    state = with_one_dimension(own, chosen(read_tensors(folder / MODEL, prefix="model."), parts))
    cast(Any, model.vision).adapt_state(state, "vision.")
    state = (chosen(own_prompts(model), parts) if fresh_prompts else {}) | state
    remedy = f"the model of this config must be the one in {folder / CONFIG}, image size apart"
    if parts:
        remedy = f"init_parts={list(parts)} must be as they are in {folder / CONFIG}; leave out what differs"
    check_fit(own, state, folder / MODEL, remedy)
    model.load_state_dict(state, strict=not parts)


def chosen(state: dict[str, Tensor], parts: Sequence[str]) -> dict[str, Tensor]:
    """The entries of a state under these names; all of them where none is given."""
    return {k: v for k, v in state.items() if not parts or any(k == p or k.startswith(f"{p}.") for p in parts)}
