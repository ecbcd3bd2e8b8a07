"""Which similarity of a model ranks every item, and which orders the best of them anew."""

import difflib
from dataclasses import dataclass, replace

from vlp.model import VLModel
from vlp.retrieval.config import EvaluationConfig
from vlp.similarity.kinds import kind_of

CHEAPEST_FIRST = ("vectors", "pairwise", "fused")


@dataclass
class Stages:
    """Names of similarities. `first` None: `second` scores every pair. `second` None: `first` alone."""

    first: str | None
    second: str | None

    def names(self) -> list[str]:
        """The similarities that are needed."""
        return [name for name in (self.first, self.second) if name is not None]


def stages_of(model: VLModel, config: EvaluationConfig, shortlisted: bool = False) -> Stages:
    """The two stages of a model: as the config says, else its cheapest similarity first and its dearest second.

    A model whose only similarity gives no vectors has every pair scored by it. `shortlisted`: another model is the
    first stage, so this one only orders anew. Raises ValueError for a model without similarities and for a name that it
    does not have.
    """
    known = {name: kind_of(part) for name, part in model.similarities.items()}
    if not known:
        raise ValueError("the model has no similarity to rank with; fine-tune it with one ('itc', 'itm', ...)")
    asked = None if shortlisted else config.first
    for name in (asked, config.rerank):
        _check(name, list(known))
    order = sorted(known, key=lambda name: CHEAPEST_FIRST.index(known[name]))
    second = config.rerank or next((name for name in reversed(order) if name != asked), None)
    if shortlisted:
        return Stages(None, second)
    first = config.first or next((name for name in order if name != second), None)
    if config.rerank is None and first is None and second is not None and known[second] == "vectors":
        return Stages(second, None)
    return Stages(first, second)


def first_of(model: VLModel, config: EvaluationConfig) -> str:
    """The similarity with which a model makes a shortlist for another."""
    stages = stages_of(model, replace(config, rerank=None))
    name = stages.first or stages.second
    assert name is not None
    return name


def _check(name: str | None, known: list[str]) -> None:
    if name is None or name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"the model has no similarity {name!r}{hint} (it has {', '.join(known)})")
