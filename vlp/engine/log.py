"""What a run writes while it trains: log.jsonl always, a progress bar, TensorBoard and wandb on request."""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

Tracker = Callable[[int, Mapping[str, Any]], None]


def open_log(path: Path) -> Tracker:
    """Append one JSON line a call. Lines are written through, so a killed run loses none that it logged."""

    def write(step: int, values: Mapping[str, Any]) -> None:
        with path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    return write


def open_trackers(names: Sequence[str], run: Path, config: dict[str, Any]) -> list[Tracker]:
    """The optional trackers of a run (`RunConfig.check` has seen their names)."""
    known: dict[str, Callable[[Path, dict[str, Any]], Tracker]] = {"tensorboard": _tensorboard, "wandb": _wandb}
    return [known[name](run, config) for name in names]


def _tensorboard(run: Path, config: dict[str, Any]) -> Tracker:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run / "tensorboard"))
    writer.add_text("config", f"```json\n{json.dumps(config, indent=2)}\n```")

    def write(step: int, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return write


def _wandb(run: Path, config: dict[str, Any]) -> Tracker:
    import wandb

    os.environ.setdefault("WANDB_MODE", "offline")
    logger = wandb.init(project="vlp", name=run.name, dir=str(run), config=config, resume="allow")

    def write(step: int, values: Mapping[str, Any]) -> None:
        logger.log(dict(values), step=step)

    return write


class Progress:
    """A bar on a terminal; one plain line a report where there is none. Both tell loss, speed, data wait and ETA."""

    def __init__(self, steps: int, start: int, *, enabled: bool = True) -> None:
        self.steps = steps
        self.start = start
        self.began = time.perf_counter()
        self.plain = enabled and not sys.stderr.isatty()
        self.bar = tqdm(total=steps, initial=start, unit="step", disable=not enabled or self.plain, dynamic_ncols=True)

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Report the logged values of a step."""
        text = (
            f"loss {values['loss']:.4f}, {values['samples_per_second']:.1f} samples/s, "
            f"data wait {values['data_wait']:.0%}"
        )
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(step - self.bar.n)
        if self.plain:
            self._line(f"step {step}/{self.steps}: {text}, ETA {duration(self.seconds_left(step))}")

    def seconds_left(self, step: int) -> float:
        """Seconds to the last step at the pace so far."""
        return (time.perf_counter() - self.began) / max(step - self.start, 1) * (self.steps - step)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self.plain or not self.bar.disable:
            self._line(text)

    def _line(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.bar.close()


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
