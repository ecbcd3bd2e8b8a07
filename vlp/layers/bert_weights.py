"""Weights of a Hugging Face BERT or RoBERTa folder, in the names of our embeddings and blocks."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

POSITIONS = "embeddings.position_embeddings.weight"


def read_bert(folder: str) -> dict[str, Tensor]:
    """State of a Hugging Face BERT folder in fp32, without a leading `bert.`; RoBERTa's positions begin behind those of
    its padding, which leave here. Raises FileNotFoundError, ValueError."""
    file = Path(folder) / "model.safetensors"
    if not file.is_file():
        raise FileNotFoundError(f"text weights {file} do not exist; give a Hugging Face BERT folder or null")
    config = json.loads((Path(folder) / "config.json").read_text())
    kind = config["model_type"]
    if kind not in ("bert", "roberta"):
        raise ValueError(f"{folder} holds a {kind}, not a bert or roberta")
    state = {k.removeprefix(f"{kind}."): v.float() for k, v in load_file(str(file)).items()}
    if kind == "roberta":
        state[POSITIONS] = state[POSITIONS][config["pad_token_id"] + 1 :]
    return state


def bert_embeddings(state: dict[str, Tensor], tags: bool = False) -> dict[str, Tensor]:
    """The embedding part of a BERT state, in `BertText`'s names; with `tags` its second segment as well."""
    own = {
        "word.weight": "word_embeddings.weight",
        "position.weight": "position_embeddings.weight",
        "norm.weight": "LayerNorm.weight",
        "norm.bias": "LayerNorm.bias",
    }
    out = {f"embeddings.{name}": state[f"embeddings.{theirs}"] for name, theirs in own.items()}
    segments = state["embeddings.token_type_embeddings.weight"]
    second = {"embeddings.tag_segment": segments[1]} if tags else {}
    return out | {"embeddings.segment": segments[0]} | second


def bert_layers(state: dict[str, Tensor], first: int, count: int) -> dict[str, Tensor]:
    """Layers [first, first + count) of a BERT state as `layers.0 ...` of post-norm blocks."""
    available = 1 + max(int(k.split(".")[2]) for k in state if k.startswith("encoder.layer."))
    if first + count > available:
        raise ValueError(f"layers {first} to {first + count - 1} are asked for, but this BERT has {available}")
    names = {
        "attention.out": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "feed_forward.up": "intermediate.dense",
        "feed_forward.down": "output.dense",
        "feed_forward_norm": "output.LayerNorm",
    }
    out = {}
    for i in range(count):
        theirs = f"encoder.layer.{first + i}."
        for kind in ("weight", "bias"):
            for name, their_name in names.items():
                out[f"layers.{i}.{name}.{kind}"] = state[f"{theirs}{their_name}.{kind}"]
            qkv = [state[f"{theirs}attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            out[f"layers.{i}.attention.qkv.{kind}"] = torch.cat(qkv)
    return out
