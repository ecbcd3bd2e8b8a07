"""The parts of parameters that a rank holds, for updates that work number by number on equally cut parameters."""

from typing import Any

from torch import Tensor


def held(parameter: Any) -> Tensor:
    """The tensor in which this rank keeps a parameter: itself, or its FSDP2 shard.

    Changing it in place changes the parameter, if every rank does the same to its own.
    """
    local: Tensor = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return local
