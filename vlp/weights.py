"""Weights of a checkpoint into a model: all of them, or those of some parts."""

from collections.abc import Mapping, Sequence
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
    filled, and the rest of either model may be anything; "vision.grid=vision" takes the checkpoint's vision for a part
    that has another name here. Raises ConfigError for a part that the model does not have, CheckpointError listing the
    keys that are missing, unexpected or of another shape.
    """
    names = named(parts, model)
    saved = read_tensors(folder / MODEL, prefix="model.")
    own = {key: value for here, _ in names for key, value in below(model.state_dict(), here).items()}
    found = {
        here + key.removeprefix(there): value for here, there in names for key, value in below(saved, there).items()
    }
    state = with_one_dimension(own, found)
    cast(Any, model.vision).adapt_state(state, "vision.")
    state = {key: value for key, value in own_prompts(model).items() if fresh_prompts and key in own} | state
    remedy = f"the model of this config must be the one in {folder / CONFIG}, image size apart"
    if parts:
        remedy = f"init_parts={list(parts)} must be as they are in {folder / CONFIG}; leave out what differs"
    check_fit(own, state, folder / MODEL, remedy)
    model.load_state_dict(state, strict=not parts)


def named(parts: Sequence[str], model: VLModel) -> list[tuple[str, str]]:
    """What each part is called here and in the checkpoint; everything where none is asked for. Raises ConfigError."""
    state = model.state_dict()
    names = [(here, there or here) for here, _, there in (part.partition("=") for part in parts)]
    unknown = [here for here, _ in names if not below(state, here)]
    if unknown:
        told = ", ".join(dict.fromkeys(key.split(".")[0] for key in state))
        raise ConfigError(f"init_parts={unknown}: the model has no such part; it has {told}, and their parts")
    return names or [("", "")]


def below(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The entries of a state that have this name or begin with it; all of them for no name."""
    return {key: value for key, value in state.items() if not name or key == name or key.startswith(f"{name}.")}
