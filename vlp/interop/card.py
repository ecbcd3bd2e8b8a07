"""The model card of an export: what was measured and how the model came about. Nothing that was not recorded."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vlp.config import Lazy
from vlp.loading import ExportError
from vlp.retrieval.report import Report
from vlp.training import TrainConfig


@dataclass
class Card:
    """Everything that a card is made of."""

    name: str
    version: str  # of vlp
    dtype: str  # of the stored weights
    config: TrainConfig
    state: dict[str, Any]  # the checkpoint's state.json
    parts: dict[str, int]  # parameters of each part
    parameters: int
    evaluations: dict[str, dict[str, Any]]  # file name -> record of an evaluation


def render(card: Card) -> str:
    """The card as Markdown. Raises ExportError for an evaluation record that is none."""
    sections = [_head(card), _use(card), _measured(card), _model(card), _training(card), _license(card)]
    return "\n".join(sections)


def _head(card: Card) -> str:
    return f"""---
library_name: vlp
tags: [vision-language, image-text-retrieval]
---

# {card.name}

A vision-language model for image-text retrieval, exported by vlp {card.version}.
"""


def _use(card: Card) -> str:
    model: Any = card.config.model
    names = {"itc": "cosine similarity", "itm": "fused log-odds"}
    meaning = next((words for name, words in names.items() if name in model.get("similarities")), "similarity")
    return f"""## Use

```python
import vlp

model = vlp.load("{card.name}")
scores = model.score(["one.jpg", "two.jpg"], ["a sentence", "another one"])  # (2, 2), {meaning} of every pair
```

`vlp search {card.name} --images FOLDER "a sentence"` finds pictures on disk.
"""


def _measured(card: Card) -> str:
    lines = ["## Measured", ""]
    for file, record in card.evaluations.items():
        lines += [f"`{file}`", "", "```", _table(file, record), "```", ""]
    if not card.evaluations:
        lines += ["Nothing: no evaluation was found beside the checkpoint. Run `vlp evaluate` and export again.", ""]
    return "\n".join(lines)


def _table(file: str, record: dict[str, Any]) -> str:
    known = {field.name for field in fields(Report)}
    try:
        return Report(**{name: value for name, value in record.items() if name in known}).table()
    except (KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{file} is no evaluation record ({error!r}); evaluate again, or move it away") from error


def _model(card: Card) -> str:
    model: Any = card.config.model
    rows = [(part, _names(model.get(part)), card.parts[part]) for part in card.parts]
    table = "\n".join(f"| {part} | {names} | {count:,} |" for part, names, count in rows)
    data = card.config.data
    return f"""## Model

| part | made of | parameters |
|---|---|---:|
{table}
| all | | {card.parameters:,} |

Pictures are squeezed to {data.image_size} x {data.image_size} pixels; texts are cut at {data.max_length} word pieces.
Weights are stored as {card.dtype}; computation is in fp32.
"""


def _names(value: Any) -> str:
    parts = value if isinstance(value, dict) else {"": value}
    return ", ".join(f"{name} {part.target.__name__}".strip() for name, part in parts.items())


def _training(card: Card) -> str:
    config, state = card.config, card.state
    facts = {
        "data": ", ".join(short(folder) for folder in config.data.folders),
        "objectives": ", ".join(config.objectives),
        "steps": f"{state['step']:,} of {config.data.batch_size} pairs",
        "started from": ", ".join(_origins(config)) or "random weights",
        "seed": config.run.seed,
        "precision": "fp32" if config.run.precision == "no" else config.run.precision,
        "code": state.get("commit"),
        "config": short(state.get("config") or ""),
        "started": state.get("time"),
        "torch": state.get("versions", {}).get("torch"),
    }
    lines = [f"- {name}: {value}" for name, value in facts.items() if value not in (None, "")]
    return "\n".join(["## Training", "", *lines, ""])


def _license(card: Card) -> str:
    origins = ", and those of the weights that they started from" if _origins(card.config) else ""
    return f"""## License

vlp is Apache-2.0. These weights carry the terms of the data that they were trained on{origins}.
"""


def _origins(config: TrainConfig) -> list[str]:
    """Files and folders whose weights started the run: `init`, or some parts of it, and every part's `weights`."""
    parts = f"{', '.join(config.init_parts)} of " if config.init_parts else ""
    init = [] if config.init is None else [f"{parts}checkpoint {short(config.init)}"]
    return init + sorted({short(path) for path in _weights(config.model)})


def _weights(value: Any) -> list[str]:
    if isinstance(value, Lazy):
        own = [value.kwargs["weights"]] if value.kwargs.get("weights") else []
        return own + [path for part in value.kwargs.values() for path in _weights(part)]
    if isinstance(value, dict):
        return [path for part in value.values() for path in _weights(part)]
    return []


def short(path: str) -> str:
    """The last two names of a path: enough to recognise it, without the author's home folder."""
    return "/".join(Path(path).parts[-2:])
