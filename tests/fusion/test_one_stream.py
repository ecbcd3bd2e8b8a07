"""One stream of BERT's blocks against transformers' encoder over the joined sequence."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from tests.parts import batch, regions
from vlp.fusion.one_stream import OneStream
from vlp.types import Stream


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("bert")
    config = BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48
    )  # fmt: skip
    BertModel(config).save_pretrained(path)
    return path


def test_post_norm_blocks_are_berts_encoder_over_words_and_regions(folder: Path) -> None:
    ours = OneStream(width=32, layers=3, heads=4, hidden=48, post_norm=True, weights=str(folder)).eval()
    theirs = BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    torch.manual_seed(1)
    b, r = batch(), regions(8, most=5, width=4, classes=2)
    text, image = Stream(torch.randn(8, 12, 32), b.text_mask), Stream(torch.randn(8, 5, 32), r.mask)
    with torch.no_grad():
        joint = torch.cat([text.tokens + ours.modality[0], image.tokens + ours.modality[1]], 1)
        mask = torch.cat([text.mask, image.mask], 1)
        bias = torch.where(mask, 0.0, -1e9)[:, None, None]
        seen: list[torch.Tensor] = []
        theirs.encoder.layer[-1].attention.self.register_forward_hook(lambda *told: seen.append(told[2][1]))
        expected = theirs.encoder(joint, attention_mask=bias).last_hidden_state
        affinities = ours.affinities(text, ours.prepare(image))
        fused = ours(text, ours.prepare(image))
        read = ours.read(text, ours.prepare(image), None, text.mask)
    assert fused.image is not None
    got = torch.cat([fused.text.tokens, fused.image.tokens], 1)
    torch.testing.assert_close(got[mask], expected[mask], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(read, expected[:, :12][text.mask], rtol=1e-4, atol=1e-5)
    attention = affinities.masked_fill(~mask[:, None, None], float("-inf")).softmax(-1).transpose(1, 2)
    torch.testing.assert_close(attention[mask], seen[0].transpose(1, 2)[mask], rtol=1e-4, atol=1e-5)


def test_a_berts_weights_need_its_blocks(folder: Path) -> None:
    with pytest.raises(ValueError, match="post_norm=true"):
        OneStream(width=32, layers=3, heads=4, hidden=48, weights=str(folder))
