"""Vision parts against timm, and the frozen prefix against the whole."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from tests.parts import SIZE, WIDTH, batch
from vlp.vision.patches import LinearPatches
from vlp.vision.vit import TimmViT

OPTIONS = {"patch_size": 8, "embed_dim": WIDTH, "depth": 3, "num_heads": 4}


def vit(**kwargs: object) -> TimmViT:
    return TimmViT(name="vit_tiny_patch16_224", image_size=SIZE, options=OPTIONS, **kwargs).eval()  # type: ignore[arg-type]


def test_tokens_are_timms(tmp_path: Path) -> None:
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=SIZE, num_classes=0, **OPTIONS).eval()
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    for frozen in (0, 2):
        got = vit(weights=str(tmp_path / "vit.safetensors"), frozen_blocks=frozen)(batch()).tokens
        torch.testing.assert_close(got, theirs.forward_features(batch().image), rtol=1e-5, atol=1e-5)


def test_cached_prefix_gives_the_same_stream_and_only_the_tail_trains() -> None:
    encoder, b = vit(frozen_blocks=2), batch()
    cached = replace(b, image=None, features=encoder.prefix(b.image))
    torch.testing.assert_close(encoder(cached).tokens, encoder(b).tokens)
    encoder(b).tokens.square().sum().backward()
    trained = {n for n, p in encoder.named_parameters() if p.grad is not None}
    assert trained
    assert all(n.startswith(("vit.blocks.2", "vit.norm")) for n in trained)
    assert trained == {n for n, p in encoder.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("frozen", [0, 1, 2, 3])
def test_levels_are_timms_intermediate_layers(tmp_path: Path, frozen: int) -> None:
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=SIZE, num_classes=0, **OPTIONS).eval()
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    encoder, b = vit(weights=str(tmp_path / "vit.safetensors"), frozen_blocks=frozen, levels=(1, 3)), batch()
    found = theirs.forward_intermediates(
        b.image, [0, 2], return_prefix_tokens=True, norm=True, output_fmt="NLC", intermediates_only=True
    )
    expected = torch.cat([torch.cat([first, patches], 1) for patches, first in found], -1)
    assert encoder.width == 2 * WIDTH
    torch.testing.assert_close(encoder(b).tokens, expected, rtol=1e-5, atol=1e-5)
    cached = replace(b, image=None, features=encoder.prefix(b.image))
    torch.testing.assert_close(encoder(cached).tokens, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("levels", [(1, 2), (3, 1), (0, 3), (1, 1, 3), (1, 4)])
def test_levels_that_leave_blocks_without_use_are_refused(levels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="end with the last layer, 3"):
        vit(levels=levels)


def test_positions_of_another_size_are_resampled() -> None:
    for make in (
        lambda size: TimmViT(name="vit_tiny_patch16_224", image_size=size, options=OPTIONS),
        lambda size: LinearPatches(image_size=size, patch=8, width=WIDTH),
    ):
        small, large = make(32), make(48)
        state = {f"vision.{k}": v for k, v in small.state_dict().items()}
        large.adapt_state(state, "vision.")
        large.load_state_dict({k.removeprefix("vision."): v for k, v in state.items()})
        name = "vit.pos_embed" if hasattr(small, "vit") else "positions"
        before, after = small.state_dict()[name], large.state_dict()[name]
        grid = before[:, 1:].transpose(1, 2).view(1, WIDTH, 4, 4)
        expected = F.interpolate(grid, (6, 6), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
        torch.testing.assert_close(after[:, 1:], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(after[:, :1], before[:, :1])


def test_linear_patches_are_a_strided_convolution() -> None:
    part, b = LinearPatches(image_size=SIZE, patch=8, width=WIDTH), batch()
    weight = part.projection.weight.view(WIDTH, 3, 8, 8)
    expected = F.conv2d(b.image, weight, part.projection.bias, stride=8).flatten(2).transpose(1, 2)
    torch.testing.assert_close(part(b).tokens[:, 1:] - part.positions[:, 1:], expected, rtol=1e-4, atol=1e-5)


def test_weights_of_another_architecture_name_the_keys(tmp_path: Path) -> None:
    state = vit().vit.state_dict()
    state.pop("blocks.1.norm1.weight")
    save_file(state, tmp_path / "vit.safetensors")
    with pytest.raises(ValueError, match=r"blocks\.1\.norm1\.weight"):
        vit(weights=str(tmp_path / "vit.safetensors"))
