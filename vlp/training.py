"""A run put together from its config: parts, data, optimizer, hooks, loop. And models read back from checkpoints."""

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from vlp.config import ConfigError, build, from_json, to_json
from vlp.data.config import DataConfig
from vlp.data.evaluation import EvaluationSet
from vlp.data.loader import TrainLoader
from vlp.data.mixture import Mixture
from vlp.data.on_device import shown
from vlp.data.stream_loader import StreamLoader, is_remote
from vlp.data.tokenizer import Tokenizer
from vlp.engine import checkpoint, launch
from vlp.engine.flops import count_flops, peak_flops
from vlp.engine.folder import CONFIG, changed_fields, find_start, open_folder
from vlp.engine.guard import Guard
from vlp.engine.loop import Hooks, train
from vlp.engine.meter import Meter
from vlp.engine.optim import OptimConfig, build_optimizer
from vlp.engine.precision import resolve_precision, set_tf32
from vlp.engine.provenance import provenance
from vlp.engine.run import RunConfig
from vlp.engine.session import MODEL, OPTIMIZER, Measured, Session
from vlp.engine.sharding import restore_optimizer
from vlp.engine.signals import StopSignals, held_back
from vlp.engine.switches import apply_switches
from vlp.engine.tensors import check_fit, read_tensors, with_one_dimension
from vlp.engine.watch import Watch
from vlp.model import VLModel
from vlp.retrieval.config import EvaluationConfig
from vlp.retrieval.evaluate import evaluate
from vlp.task import Task, embeddings_alone
from vlp.teacher import Teacher
from vlp.trial import try_task
from vlp.types import Batch
from vlp.weights import load_weights, without_weights


@dataclass
class TrainConfig:
    """Everything that a run depends on. The parts are recorded calls (`lazy(...)`), made by `build_task`."""

    model: VLModel
    objectives: dict[str, nn.Module]
    teacher: Teacher | None = None
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    mix: dict[str, float] | None = None  # shares with which a step draws one objective; None = every step sums them all
    init: str | None = None  # checkpoint, or run folder, whose model weights start this run
    init_parts: list[str] | None = None  # these alone ("vision", "text.layers", "vision.grid=vision"); None = all


def run(config: TrainConfig, resume: bool = False, dry_run: bool = False, source: str = "") -> dict[str, float]:
    """Train `config` (or only try its first step) and return the newest metrics. `source` names the config file.

    Weights come from, in this order: the newest checkpoint of `run.out` when resuming; `init`, or its `init_parts`; the
    files that the parts read themselves; the seed. Raises ConfigError, DataError or CheckpointError before the first
    step, and Stopped (exit code 75) after a signal.
    """
    config.run.check()
    config.run.precision = resolve_precision(config.run.precision)  # so that the record says what was computed in
    set_tf32(config.run.tf32)
    accelerator = launch.start(config.run)
    if dry_run:
        return _try(config, accelerator)
    with StopSignals() as signals:
        return _run(config, resume, source, accelerator, signals)


def _run(
    config: TrainConfig, resume: bool, source: str, accelerator: Accelerator, signals: StopSignals
) -> dict[str, float]:
    if config.run.gradient_cache and accelerator.distributed_type is DistributedType.FSDP:
        raise ConfigError("run.gradient_cache embeds beside the forward pass, where FSDP's weights are cut; use DDP")
    begin = launch.same_everywhere(accelerator, lambda: find_start(Path(config.run.out), resume))
    if not config.data.folders:
        raise ConfigError("data.train is not set; give the folder of the training shards, data.train=...")
    check_mix(config, accelerator)
    tokenizer = Tokenizer.from_folder(config.data.tokenizer or config.data.folders[0])
    loader = _loader(config, tokenizer, accelerator)
    task = _task(config, begin, tokenizer)
    measure = _measure(config, task, tokenizer, accelerator)
    task.to(accelerator.device)
    adamw = build_optimizer(task, config.optim)
    guard = Guard(config.run, accelerator, loader.tally)
    state = {} if begin is None else _restore(begin, task, guard, config, accelerator)
    start = state.get("step", 0)
    with closing(cast(Any, loader.batches(start))) as reading:  # its processes end with the run, whatever ends it
        batches = shown(_primed(reading), accelerator.device)
        meter = _meter(config.run, task, next(batches), accelerator, start)
        micro_batch = config.data.batch_size // (accelerator.num_processes * config.run.accumulate)
        wrapped, optimizer = launch.wrap(
            accelerator, task, adamw, run=config.run, micro_batch=micro_batch, clip=config.optim.clip
        )
        if begin is not None:
            tensors = read_tensors(begin / OPTIMIZER)
            restore_optimizer(accelerator, adamw, optimizer, task, tensors, begin / OPTIMIZER)
        world = {"processes": accelerator.num_processes, "launch": accelerator.distributed_type.value}
        record = provenance() | {"config": source, "seed": config.run.seed, **world}
        if accelerator.is_main_process:
            open_folder(Path(config.run.out), to_json(config), record, start)
        accelerator.wait_for_everyone()
        session = Session(
            run=config.run,
            config=to_json(config),
            accelerator=accelerator,
            task=task,
            optimizer=adamw,
            prepared=optimizer,
            files={
                CONFIG: json.dumps(to_json(config), indent=2).encode(),
                "tokenizer.json": tokenizer.rust.to_str(pretty=True).encode(),
            },
            state=record,
            measure=measure,
            bad_samples=loader.report,
            start=start,
            guard=guard,
            signals=signals,
            metrics=state.get("metrics", {}),
        )
        ranks = {"rank": accelerator.process_index, "world": accelerator.num_processes}
        with session.recorded(), Watch(meter, **ranks, timeout=config.run.timeout, ended=session.late):
            last = train(
                task=wrapped,
                inner=task,
                optimizer=optimizer,
                batches=batches,
                accelerator=accelerator,
                run=config.run,
                optim=config.optim,
                hooks=Hooks(session.log, session.evaluate, session.checkpoint, session.skip, session.wants_stop),
                guard=guard,
                meter=meter,
                start=start,
            )
        return session.finish(last)


def build_task(config: TrainConfig, read_weights: bool = True) -> Task:
    """The task of a config, its random weights drawn from the seed.

    `read_weights=False` leaves the parts' own weight files unread: a checkpoint will replace those weights anyway.
    Raises ConfigError for parts that do not go together and for a weight file that is missing.
    """
    torch.manual_seed(config.run.seed)
    parts = {"model": config.model, "objectives": config.objectives, "teacher": config.teacher}
    try:
        made = build(parts if read_weights else without_weights(parts))
        task = Task(**made, mix=config.mix, mix_seed=config.run.seed)
    except (ValueError, OSError) as error:
        raise ConfigError(f"the config's parts cannot be built: {error}") from error
    if config.run.gradient_cache and not any(embeddings_alone(o) for o in task.objectives.values()):
        raise ConfigError("run.gradient_cache joins the contrast of embeddings, and no objective is one; leave it out")
    return task


def load_model(folder: Path | str) -> tuple[VLModel, TrainConfig, Tokenizer]:
    """Model (in evaluation mode, on the CPU), config and tokenizer of a checkpoint, or of a run's newest one.

    Raises CheckpointError for a folder that is none, is damaged, or was written by another version of the parts.
    """
    place = checkpoint.resolve(folder)
    config = cast(TrainConfig, from_json(json.loads((place / CONFIG).read_text())))
    model = cast(VLModel, build(without_weights(config.model)))
    load_weights(model, place)
    return model.eval(), config, Tokenizer.from_folder(place)


def check_sizes(config: TrainConfig, task: Task, tokenizer: Tokenizer | None) -> None:
    """Raise ConfigError when pictures or word ids of the data do not fit the model or an objective."""
    size = getattr(task.model.vision, "image_size", None)  # region encoders have none
    if size is not None and size != config.data.image_size:
        raise ConfigError(
            f"data.image_size={config.data.image_size} but the vision part takes pictures of {size}; "
            "set data.image_size and model.vision.image_size to the same number"
        )
    if tokenizer is None:
        return
    words = cast(int, task.model.text.vocab_size)
    if tokenizer.vocab_size > words:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} words but model.text.vocab_size={words}; "
            "raise it, or set data.tokenizer"
        )
    for name, objective in task.objectives.items():
        if getattr(objective, "mask_id", tokenizer.mask_id) != tokenizer.mask_id:
            raise ConfigError(f"objectives.{name}.mask_id is not the tokenizer's [MASK], {tokenizer.mask_id}; set it")


def check_mix(config: TrainConfig, accelerator: Accelerator) -> None:
    """Raise ConfigError for a mix where no rank has the whole model: what a step leaves out could not be gathered."""
    if config.mix is not None and launch.cuts_weights(accelerator):
        raise ConfigError(
            "mix draws one objective a step, which FSDP2 and ZeRO-3 cannot do; set mix=null, or use ZeRO-2"
        )


# ---------------------------------------------------------------- the steps of `run`


def _loader(config: TrainConfig, tokenizer: Tokenizer, accelerator: Accelerator) -> TrainLoader | StreamLoader:
    part: dict[str, int] = {
        "rank": accelerator.process_index,
        "world": accelerator.num_processes,
        "seed": config.run.seed,
        "accumulate": config.run.accumulate,
    }
    if any(is_remote(folder) for folder in config.data.folders):
        return StreamLoader(config.data, tokenizer, **part)
    return TrainLoader(config.data, Mixture.from_config(config.data, tokenizer, config.run.seed), **part)


def _primed(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The first batch twice (once to look at), then the others. The reading processes start here, deaf to signals."""
    with held_back():
        first = next(batches)
    return chain([first, first], batches)


def _meter(run: RunConfig, task: Task, batch: Batch, accelerator: Accelerator, start: int) -> Meter:
    """A meter that knows FLOPs, where a whole step fits beside the whole model: not when parameters are sharded."""
    sharded = accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP)
    if not run.mfu or sharded or accelerator.scaler is not None:
        return Meter(taken=start)
    with accelerator.autocast():
        flops = count_flops(task, batch.to(accelerator.device))
    peak = peak_flops(accelerator.device, accelerator.mixed_precision)
    return Meter(flops_per_sample=flops, peak_flops=peak, taken=start)


def _task(config: TrainConfig, begin: Path | None, tokenizer: Tokenizer | None) -> Task:
    """The task with its starting weights, those of `begin` excepted."""
    if config.init_parts and config.init is None:
        raise ConfigError("init_parts are parts of the run that init names; set init=RUN, or init_parts=null")
    fresh = begin is None
    source = checkpoint.resolve(config.init) if fresh and config.init is not None else None
    task = build_task(config, read_weights=fresh and (source is None or bool(config.init_parts)))
    check_sizes(config, task, tokenizer)
    if source is not None:
        load_weights(task.model, source, fresh_prompts=True, parts=config.init_parts or ())
        task.sync_teacher()
    apply_switches(task, config.run)
    return task


def _restore(begin: Path, task: Task, guard: Guard, config: TrainConfig, accelerator: Accelerator) -> dict[str, Any]:
    """Fill task and guard from the checkpoint to resume from; its state.json."""
    changed = changed_fields(json.loads((begin / CONFIG).read_text()), to_json(config))
    if changed:
        text = f"resuming {begin} with another config: {', '.join(changed)} changed, so the run is not an exact repeat"
        warnings.warn(text, stacklevel=3)
    remedy = f"resume with the config of the run, or start another with init={begin}"
    tensors = with_one_dimension(task.state_dict(), read_tensors(begin / MODEL))
    check_fit(task.state_dict(), tensors, begin / MODEL, remedy)
    task.load_state_dict(tensors)
    state = checkpoint.read_state(begin)
    guard.load(state["guard"])
    if accelerator.scaler is not None and state["scaler"] is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    return state


def _measure(
    config: TrainConfig, task: Task, tokenizer: Tokenizer, accelerator: Accelerator
) -> Callable[[], Measured] | None:
    """Zero-shot retrieval on data.val, or None where there is none."""
    if not config.data.val:
        return None
    if launch.cuts_weights(accelerator):
        text = "no evaluation during this run, whose weights are cut among the ranks; `vlp evaluate` its checkpoints"
        warnings.warn(text, stacklevel=3)
        return None
    dataset = EvaluationSet(config.data, config.data.val, tokenizer, limit=config.evaluation.limit)
    bank = open_bank(config, tokenizer)

    def measure() -> Measured:
        # In float32, without the step's autocast: bfloat16 similarities would be full of ties.
        report = evaluate(task.model, dataset, config.evaluation, accelerator.device, bank=bank, progress=False)
        return Measured(_scalars(report.to_json(), "retrieval"), report.table())

    return measure


def open_bank(config: TrainConfig, tokenizer: Tokenizer) -> EvaluationSet | None:
    """The training queries of `evaluation.bank`, or None where none are asked for."""
    settings = config.evaluation
    return EvaluationSet(config.data, settings.bank, tokenizer, settings.bank_limit) if settings.bank else None


def _scalars(record: Any, name: str) -> dict[str, float]:
    """The numbers of a nested record under `a/b/c`."""
    if isinstance(record, dict):
        return {k: v for key, value in record.items() for k, v in _scalars(value, f"{name}/{key}").items()}
    return {name: float(record)} if isinstance(record, (int, float)) and not isinstance(record, bool) else {}


def _try(config: TrainConfig, accelerator: Accelerator) -> dict[str, float]:
    """`--dry-run`: everything about the first step that needs no data; prints it."""
    place = Path(config.data.tokenizer or next(iter(config.data.folders), "nowhere"))
    tokenizer = Tokenizer.from_folder(place) if place.exists() else None
    task = _task(config, None, tokenizer)
    task.to(accelerator.device)
    wrapped, _ = launch.wrap(accelerator, task, build_optimizer(task, config.optim))
    accelerator.print(json.dumps(to_json(config), indent=2))
    vocab_size = cast(int, task.model.text.vocab_size) if tokenizer is None else tokenizer.vocab_size
    return try_task(wrapped, task, config.data, config.run, vocab_size, accelerator)
