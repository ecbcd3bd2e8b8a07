"""What a run is: how long, from which seed, how precise, and when it reports, evaluates and saves."""

import difflib
import importlib.util
from dataclasses import dataclass, field

from vlp.config import ConfigError
from vlp.engine.precision import PRECISIONS

TRACKERS = ("tensorboard", "wandb")


@dataclass
class RunConfig:
    """Settings of the loop. The number of pairs in a step is `data.batch_size`, whatever `accumulate` is."""

    out: str = "runs/run"  # folder of the run: config.json, run.json, log.jsonl, step-00000100/ ...
    steps: int = 1000  # optimizer steps in all
    seed: int = 0  # initial weights, order, augmentation, dropout, masks and negatives all hang on it
    accumulate: int = 1  # micro batches a step
    gradient_cache: bool = False  # contrast all micro batches of a step with each other; encodes each of them twice
    precision: str = "no"  # "no" = float32; "bf16", "fp16" = autocast; "auto" = bf16 where the hardware has it
    tf32: bool = False  # matrix products of float32 on a GPU in TF32 (10 bits of mantissa), several times faster
    log_every: int = 10  # steps between two lines of log.jsonl
    checkpoint_every: int = 1000  # steps between checkpoints; 0 = only at the end
    checkpoint_async: bool = False  # write checkpoints in a thread, from a copy of the state in CPU memory
    keep: int = 2  # newest checkpoints kept; 0 = all
    keep_best: str = ""  # also the best by this metric, e.g. "retrieval/first/all/rsum"; "-loss": the smallest
    keep_hours: float = 0.0  # also one every so many hours; 0 = none
    max_skips: int = 10  # steps skipped in a row (loss or gradient not finite, or an outlier) that stop the run
    spike: float = 0.0  # skip losses and gradient norms so many standard deviations above the last 128 steps; 0 = none
    timeout: float = 600.0  # seconds without progress that end a run of several ranks, naming the late one; 0 = never
    mfu: bool = True  # count the FLOPs of the first batch before training, and log the share of the device's peak
    eval_every: int = 0  # steps between zero-shot retrievals on data.val; 0 = only at the end
    compile: bool = False  # torch.compile the blocks of the task
    compile_parts: list[str] = field(default_factory=list)  # only these of the model: "vision", "text", "fusion"
    checkpointing: bool = False  # recompute activations in the backward pass: less memory, more time
    checkpointing_parts: list[str] = field(default_factory=list)  # only these of the model, as above
    trackers: list[str] = field(default_factory=list)  # beside log.jsonl: "tensorboard", "wandb" (offline by default)
    threads: int | None = None  # CPU threads of torch; null leaves torch's own choice

    def check(self) -> None:
        """Raise ConfigError for a value that no run can use."""
        for name in ("steps", "accumulate", "log_every", "max_skips"):
            if getattr(self, name) < 1:
                raise ConfigError(f"run.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("checkpoint_every", "keep", "keep_hours", "spike", "timeout", "eval_every"):
            if getattr(self, name) < 0:
                raise ConfigError(f"run.{name} is {getattr(self, name)}; it must be 0 or more")
        for name in ("compile", "checkpointing"):
            if getattr(self, f"{name}_parts") and not getattr(self, name):
                raise ConfigError(f"run.{name}_parts chooses parts, but run.{name} is off; set run.{name}=true")
        if self.gradient_cache and self.accumulate == 1:
            raise ConfigError("run.gradient_cache joins the micro batches of a step; set run.accumulate above 1")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"run.precision is {self.precision!r}; choose one of {', '.join(PRECISIONS)}")
        for name in self.trackers:
            _check_tracker(name)


def _check_tracker(name: str) -> None:
    if name not in TRACKERS:
        near = difflib.get_close_matches(name, TRACKERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"run.trackers has no tracker {name!r}{hint} (trackers: {', '.join(TRACKERS)})")
    if importlib.util.find_spec(name) is None:
        raise ConfigError(f"run.trackers: {name} is not installed; pip install {name}")


def due(step: int, every: int, last: int) -> bool:
    """Whether something that happens every `every` steps (0 = never) and after the last step happens after `step`."""
    return step == last or (every > 0 and step % every == 0)
