"""Which checkpoints of a run stay when a new one was written: the newest, the best, and one every so many hours."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Retention:
    """`newest` = 0 keeps all. `best` names a metric, largest first; "-loss" means smallest first. `hours` = 0: none.

    The best is taken among the checkpoints of steps at which the metric was measured.
    """

    newest: int = 0
    best: str = ""
    hours: float = 0.0

    def kept(self, states: Mapping[int, Mapping[str, Any]], step: int) -> set[int]:
        """The steps to keep, of checkpoints with these contents of `state.json`, after `step` was written.

        Later steps stay as well: they were passed over as damaged when the run was resumed, and count for nothing.
        """
        past = sorted(s for s in states if s <= step)
        if not self.newest:
            return set(states)
        later = set(states) - set(past)
        return later | {step} | set(past[-self.newest :]) | self._best(states, past) | self._hourly(states, past)

    def _best(self, states: Mapping[int, Mapping[str, Any]], past: list[int]) -> set[int]:
        name, sign = self.best.removeprefix("-"), -1.0 if self.best.startswith("-") else 1.0
        values = {s: sign * states[s].get("measured", {}).get(name, math.nan) for s in past}
        measured = {s: value for s, value in values.items() if not math.isnan(value)}
        return {max(measured, key=lambda s: measured[s])} if measured else set()

    def _hourly(self, states: Mapping[int, Mapping[str, Any]], past: list[int]) -> set[int]:
        """The first checkpoint, and each that was written `hours` or more after the last one of this chain."""
        chain: list[int] = []
        last = -math.inf
        for s in past if self.hours else []:
            written = states[s].get("written", -math.inf)
            if written - last >= 3600 * self.hours:
                chain.append(s)
                last = written
        return set(chain)
