"""Our BERT against transformers', from the same folder."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from tests.parts import batch
from vlp.fusion.cross import CrossFusion
from vlp.text.bert import BertText
from vlp.types import Stream


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("bert")
    config = BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=16,
    )  # fmt: skip
    BertModel(config).save_pretrained(path)
    return path


def ours(folder: Path, layers: int) -> BertText:
    return BertText(
        vocab_size=60, width=32, layers=layers, heads=4, hidden=48, max_positions=16, weights=str(folder)
    ).eval()


def test_outputs_equal_transformers_at_real_tokens(folder: Path) -> None:
    b, theirs = batch(), BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = theirs(input_ids=b.text_ids, attention_mask=b.text_mask.long()).last_hidden_state
        got = ours(folder, 4)(b.text_ids, b.text_mask).tokens
    torch.testing.assert_close(got[b.text_mask], expected[b.text_mask], rtol=1e-4, atol=1e-5)


def test_the_second_half_starts_the_fusion(folder: Path) -> None:
    """Text layers [0, 2) then fusion layers [2, 4) without their cross-attention are the whole BERT."""
    fusion = CrossFusion(width=32, layers=2, heads=4, hidden=48, image_width=8, weights=str(folder), first_layer=2)
    whole = ours(folder, 4)
    for i in (0, 1):
        state = whole.layers[2 + i].state_dict()
        for name, value in fusion.layers[i].state_dict().items():
            assert name.startswith("cross") or torch.equal(value, state[name])


def test_too_many_layers_is_an_error(folder: Path) -> None:
    with pytest.raises(ValueError, match="layers 0 to 4 are asked for, but this BERT has 4"):
        ours(folder, 5)


def test_missing_folder_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors do not exist"):
        ours(tmp_path, 2)


def test_frozen_layers_stay_and_drop_nothing(folder: Path) -> None:
    text = BertText(
        vocab_size=60, width=32, layers=4, heads=4, hidden=48, max_positions=16, weights=str(folder), frozen_layers=2
    ).train()
    b = batch()
    text(b.text_ids, b.text_mask).tokens.sum().backward()
    trained = {name.split(".")[1] for name, p in text.named_parameters() if p.grad is not None}
    assert trained == {"2", "3"}
    assert {n.split(".")[1] for n, p in text.named_parameters() if n.startswith("layers") and p.requires_grad} == {
        "2",
        "3",
    }
    shorter = ours(folder, 2)
    seen: list[torch.Tensor] = []
    text.layers[1].register_forward_hook(lambda _, __, out: seen.append(out))
    text(b.text_ids, b.text_mask)
    torch.testing.assert_close(seen[0], shorter(b.text_ids, b.text_mask).tokens[b.text_mask])


def test_levels_are_transformers_hidden_states(folder: Path) -> None:
    b, theirs = batch(), BertModel.from_pretrained(folder).eval()
    text = BertText(
        vocab_size=60, width=32, layers=4, heads=4, hidden=48, max_positions=16, weights=str(folder), levels=(0, 3, 4)
    ).eval()
    with torch.no_grad():
        states = theirs(input_ids=b.text_ids, attention_mask=b.text_mask.long(), output_hidden_states=True)
        got = text(b.text_ids, b.text_mask).tokens
    expected = torch.cat([states.hidden_states[level] for level in (0, 3, 4)], dim=-1)
    assert text.width == 96
    torch.testing.assert_close(got[b.text_mask], expected[b.text_mask], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="must rise from 0"):
        BertText(vocab_size=60, width=32, layers=4, heads=4, levels=(0, 3))


def test_a_fusion_reads_the_last_level(folder: Path) -> None:
    b = batch()
    fusion = CrossFusion(width=32, layers=2, heads=4, hidden=48, image_width=8).eval()
    prepared = fusion.prepare(Stream(torch.randn(len(b), 5, 8), torch.ones(len(b), 5, dtype=torch.bool)))
    several = Stream(torch.randn(*b.text_mask.shape, 96), b.text_mask)
    last = Stream(several.tokens[..., 64:], b.text_mask)
    torch.testing.assert_close(fusion(several, prepared).summary, fusion(last, prepared).summary)
    torch.testing.assert_close(fusion.summarize(several, prepared), fusion.summarize(last, prepared))
