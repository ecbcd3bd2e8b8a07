"""Learned prompts: encoders against transformers' and timm's own layers over the longer row, and what they train."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from configs.finetune import prompts as prompt_tuning
from tests.parts import SIZE, VOCAB, WIDTH, batch, two_stream
from tests.small_run import small_config, write_data
from vlp import training
from vlp.config import build, lazy
from vlp.engine.optim import OptimConfig, parameter_groups
from vlp.engine.tensors import CheckpointError, read_tensors
from vlp.objectives.itc import ITC
from vlp.text.bert import BertText
from vlp.text.clip import ClipText
from vlp.view import View
from vlp.vision.vit import TimmViT
from vlp.weights import load_weights


def bert(folder: Path) -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=16,
    )  # fmt: skip
    made = BertModel(config).eval()
    made.save_pretrained(folder)
    return made


def test_a_caption_is_read_with_the_prompts_in_front(tmp_path: Path) -> None:
    theirs = bert(tmp_path)
    text = BertText(
        vocab_size=VOCAB, width=32, layers=2, heads=4, hidden=48, max_positions=16, weights=str(tmp_path), prompts=3
    ).eval()
    b = batch()
    with torch.no_grad():
        text.prompts.tokens.mul_(50)
        got = text(b.text_ids, b.text_mask)
        assert got.tokens.shape[:2] == b.text_ids.shape
        for row, (ids, mask) in enumerate(zip(b.text_ids, b.text_mask, strict=True)):
            embedded = theirs.embeddings(ids[mask][None])
            hidden = torch.cat([text.prompts.tokens[None], embedded], 1)
            expected = theirs.encoder(hidden).last_hidden_state[0, 3:]
            torch.testing.assert_close(got.tokens[row][mask], expected, rtol=1e-4, atol=1e-5)


def test_a_causal_encoder_reads_the_prompts_from_every_word() -> None:
    """With prompts in front a word depends on them and on the words before it, and on nothing behind."""
    torch.manual_seed(0)
    text = ClipText(vocab_size=VOCAB, width=32, layers=2, heads=4, max_positions=16, prompts=2).eval()
    b = batch()
    embedded = text.embeddings.word(b.text_ids) + text.embeddings.position.weight[: b.text_ids.shape[1]]
    got = text(b.text_ids, b.text_mask).tokens
    for place in (0, 3):
        with torch.no_grad():
            row = torch.cat([text.prompts.tokens, embedded[0, : place + 1]])[None]
        length = row.shape[1]
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        tokens = row
        for layer in text.layers:
            normed = layer.attention_norm(tokens)
            q, k, v = (x.view(1, length, 4, -1).transpose(1, 2) for x in layer.attention.qkv(normed).chunk(3, -1))
            weights = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).masked_fill(later, float("-inf")).softmax(-1)
            tokens = tokens + layer.attention.out((weights @ v).transpose(1, 2).flatten(2))
            tokens = tokens + layer.feed_forward(layer.feed_forward_norm(tokens))
        torch.testing.assert_close(got[0, place], text.norm(tokens)[0, -1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frozen", [0, 1])
def test_patches_are_read_with_the_prompts_beside_them(frozen: int) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"patch_size": 8, "embed_dim": WIDTH, "depth": 3, "num_heads": 4}
    vision = TimmViT(
        name="vit_tiny_patch16_224", image_size=SIZE, options=options, frozen_blocks=frozen, levels=(2, 3), prompts=4
    ).eval()
    b = batch()
    with torch.no_grad():
        got = vision(b)
        tokens = vision.vit._pos_embed(vision.vit.patch_embed(b.image))
        patches, reached = tokens.shape[1], []
        for number, block in enumerate(vision.vit.blocks):
            if number == frozen:
                tokens = torch.cat([tokens, vision.prompts.tokens[None].repeat(len(tokens), 1, 1)], 1)
            tokens = block(tokens)
            reached.append(vision.vit.norm(tokens)[:, :patches])
    torch.testing.assert_close(got.tokens, torch.cat(reached[1:], -1), rtol=1e-4, atol=1e-5)
    assert got.mask.all()


def test_without_prompts_nothing_is_drawn_or_added() -> None:
    torch.manual_seed(0)
    plain = ClipText(vocab_size=VOCAB, width=32, layers=1, heads=4, max_positions=16)
    assert not [name for name in plain.state_dict() if "prompts" in name]


def test_only_the_prompts_and_the_temperature_train() -> None:
    assert prompt_tuning.config().model.get("vision").get("prompts") == prompt_tuning.PROMPTS
    run = prompt_tuning.tiny()
    task = training.build_task(run)
    names = {name for group in parameter_groups(task, run.optim) for name in group["names"]}
    assert names == {
        "model.vision.prompts.tokens",
        "model.text.prompts.tokens",
        "model.similarities.itc.logit_scale",
    }


@pytest.mark.slow
def test_tuning_starts_from_a_checkpoint_without_prompts_and_changes_nothing_else(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", pictures=16)
    before = small_config(data, tmp_path / "before", steps=1, eval_every=0, checkpoint_every=1)
    training.run(before)
    after = small_config(data, tmp_path / "after", steps=3, eval_every=0, checkpoint_every=3)
    after.objectives, after.teacher = {"itc": lazy(ITC)()}, None
    for part in ("vision", "text"):
        after.model.kwargs[part].kwargs["prompts"] = 2
    after.optim = OptimConfig(lr=1e-2, lr_scale={"model": 0.0, "model.vision.prompts": 1.0, "model.text.prompts": 1.0})
    after.init = str(tmp_path / "before")
    training.run(after)
    old = read_tensors(tmp_path / "before" / "step-00000001" / "model.safetensors", prefix="model.")
    new = read_tensors(tmp_path / "after" / "step-00000003" / "model.safetensors", prefix="model.")
    assert set(new) - set(old) == {"vision.prompts.tokens", "text.prompts.tokens"}
    assert all(torch.equal(new[name], old[name]) for name in old)
    fresh = training.build_task(after).model.state_dict()
    assert all(not torch.equal(new[name], fresh[name]) for name in set(new) - set(old))
    model, _, _ = training.load_model(tmp_path / "after")
    with pytest.raises(CheckpointError, match=r"2 missing: .*prompts\.tokens"):
        load_weights(model, tmp_path / "before" / "step-00000001")


def test_every_prompt_gets_a_gradient_through_the_frozen_backbone() -> None:
    torch.manual_seed(0)
    kwargs = two_stream(teacher=False)
    for part in ("vision", "text"):
        kwargs["model"].kwargs[part].kwargs["prompts"] = 4
    model = build(kwargs["model"])
    model.requires_grad_(False)
    tuned = [model.vision.prompts.tokens, model.text.prompts.tokens]
    for prompts in tuned:
        prompts.requires_grad_(True)
    ITC()(View(model, batch())).value.backward()
    assert all((prompts.grad.abs().sum(1) > 0).all() for prompts in tuned)
