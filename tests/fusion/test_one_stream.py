"""One stream of BERT's blocks against transformers' encoder over the joined sequence, of a ViT's against timm."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from tests.parts import batch, regions
from vlp.fusion.one_stream import OneStream
from vlp.types import Stream
from vlp.vision.patches import LinearPatches


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


def saved_vit(path: Path, **options: object) -> Any:
    """A timm ViT of two blocks for 32 px, in evaluation mode, and its file."""
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
    made = timm.create_model("vit_tiny_patch16_224", **(sizes | options)).eval()
    with torch.no_grad():
        for value in made.parameters():
            value.add_(torch.randn_like(value), alpha=0.1)
    save_file(made.state_dict(), path)
    return made


@pytest.mark.parametrize("size", [32, 48])
def test_linear_patches_and_pre_norm_blocks_from_a_vits_file_are_the_vit(size: int, tmp_path: Path) -> None:
    file = str(tmp_path / "vit.safetensors")
    theirs = saved_vit(tmp_path / "vit.safetensors")
    vision = LinearPatches(image_size=size, patch=8, width=32, weights=file).eval()
    fusion = OneStream(width=32, layers=2, heads=4, weights=file).eval()
    b = batch()
    b.image = torch.randn(len(b), 3, size, size)
    with torch.no_grad():
        theirs.set_input_size(img_size=size)
        fusion.modality.zero_()
        patches = vision(b)
        nothing = Stream(torch.randn(len(b), 3, 32), torch.zeros(len(b), 3, dtype=torch.bool))
        got = fusion(patches, fusion.prepare(nothing)).text.tokens  # as if the patches were words, beside no picture
        torch.testing.assert_close(got, theirs.forward_features(b.image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 1}, r"lacks blocks\.1\.norm1\.weight"),
        ({"embed_dim": 64}, r"is of another size: .*\(64,\), here \(32,\)"),
        ({"init_values": 0.1}, r"have more than those of a one-stream model: blocks\.0\.ls1\.gamma"),
    ],
)
def test_a_vit_that_does_not_fit_is_told(options: dict[str, object], message: str, tmp_path: Path) -> None:
    saved_vit(tmp_path / "vit.safetensors", **options)
    with pytest.raises(ValueError, match=message):
        OneStream(width=32, layers=2, heads=4, weights=str(tmp_path / "vit.safetensors"))


def test_patches_of_another_vit_are_told(tmp_path: Path) -> None:
    file = str(tmp_path / "vit.safetensors")
    with pytest.raises(FileNotFoundError, match="give a timm safetensors file or null"):
        LinearPatches(image_size=32, patch=8, width=32, weights=file)
    saved_vit(tmp_path / "vit.safetensors", patch_size=16)
    with pytest.raises(ValueError, match=r"projection\.weight \(32, 768\), here \(32, 192\)"):
        LinearPatches(image_size=32, patch=8, width=32, weights=file)
