"""Configs: recorded calls, overrides, JSON both ways, nothing foreign built."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.parts import two_stream
from vlp.config import ConfigError, build, from_json, lazy, override, to_json
from vlp.fusion.one_stream import OneStream
from vlp.similarity.cosine import CosineSimilarity


@dataclass
class Settings:
    lr: float = 1e-4
    steps: int = 10
    betas: tuple[float, float] = (0.9, 0.999)
    out: str = "runs"
    init: str | None = None
    model: Any = field(default_factory=lambda: lazy(OneStream)(width=64, layers=2, heads=4))


def test_overrides_reach_fields_calls_and_defaults() -> None:
    config = override(
        Settings(), ["lr=1", "steps=1e3", "betas=[0.5,0.9]", "init=a/b", "model.width=32", "model.dropout=0.2"]
    )
    assert (config.lr, config.steps, config.betas, config.init) == (1.0, 1000, (0.5, 0.9), "a/b")
    assert isinstance(config.lr, float)
    assert isinstance(config.steps, int)
    assert config.model.kwargs == {"width": 32, "layers": 2, "heads": 4, "dropout": 0.2}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("stepz=3", "did you mean 'steps'"),
        ("model.widht=3", "did you mean 'width'"),
        ("optim.lr=3", "has no field 'optim'"),
        ("steps=many", "a str; int is needed"),
        ("steps=1.5", "a float; int is needed"),
        ("model=3", "is a part"),
        ("steps", "not an override"),
    ],
)
def test_wrong_overrides_say_what_is_right(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(Settings(), [assignment])


def test_a_misspelt_keyword_fails_where_it_is_written() -> None:
    with pytest.raises(ConfigError, match="did you mean 'embed_dim'"):
        lazy(CosineSimilarity)(image_width=1, text_width=1, embed_dm=3)  # type: ignore[call-arg]


def test_json_round_trip() -> None:
    record = to_json(two_stream())
    assert to_json(from_json(record)) == record
    assert from_json(record) == two_stream()


@pytest.mark.parametrize(
    "target",
    ["os.system", "vlp.config.importlib.import_module", "vlp.config.build", "vlp.types.torch", "vlp.nothing.X"],
)
def test_a_record_builds_nothing_foreign(target: str) -> None:
    with pytest.raises(ConfigError):
        from_json({"_target_": target})


def test_build_makes_inner_calls_first() -> None:
    made = build({"parts": [lazy(OneStream)(width=8, layers=1, heads=2)], "n": 3})
    assert isinstance(made["parts"][0], OneStream)
    assert made["n"] == 3
