"""What a caption's words speak of, from characters to word pieces."""

from typing import Any

from vlp.data.tokenizer import Tokenizer
from vlp.types import KINDS

Row = tuple[int, int, int, int]  # kind, node, phrase, region


def graph_of(caption: dict[str, Any], tokenizer: Tokenizer, max_length: int) -> list[Row]:
    """A row for each piece of the caption: kind, node, phrase and region, as `vlp.types.Graph` says them.

    `caption["phrases"]` are `{"span": [start, end], "objects": [row of a region, ...]}` and `caption["nodes"]`
    `{"span": [start, end], "kind": "object"}`, spans in characters. Raises KeyError, ValueError for others.
    """
    nodes = [(*n["span"], KINDS.index(n["kind"])) for n in caption["nodes"]]
    phrases = [(*p["span"], p["objects"][0] if len(p["objects"]) == 1 else -1) for p in caption["phrases"]]
    rows: list[Row] = []
    for start, end in tokenizer.offsets(caption["text"], max_length):
        node = next((i for i, (a, b, _) in enumerate(nodes) if a <= start < b and start < end), -1)
        phrase = next((i for i, (a, b, _) in enumerate(phrases) if a <= start < b and start < end), -1)
        rows.append((nodes[node][2] if node >= 0 else 0, node, phrase, phrases[phrase][2] if phrase >= 0 else -1))
    return rows
