"""Our CLIP and SigLIP text transformers against transformers', weights shared."""

import torch
from transformers import CLIPTextConfig, CLIPTextModel, SiglipTextConfig, SiglipTextModel

from tests.parts import batch
from vlp.pooling.tokens import LastPool
from vlp.text.clip import ClipText


def copied(theirs: torch.nn.Module, causal: bool) -> ClipText:
    """Ours with the weights of theirs."""
    state = theirs.state_dict()
    ours = ClipText(
        vocab_size=60, width=32, layers=2, heads=4, hidden=48, max_positions=16, causal=causal, quick=causal,
        eps=1e-5 if causal else 1e-6,
    )  # fmt: skip
    keys = [k for k in state if k.endswith("token_embedding.weight")]
    root = keys[0].removesuffix("embeddings.token_embedding.weight")
    own = {"embeddings.word.weight": state[keys[0]]}
    own["embeddings.position.weight"] = state[f"{root}embeddings.position_embedding.weight"]
    for kind in ("weight", "bias"):
        own[f"norm.{kind}"] = state[f"{root}final_layer_norm.{kind}"]
        for i in range(2):
            layer = f"{root}encoder.layers.{i}."
            own[f"layers.{i}.attention.qkv.{kind}"] = torch.cat(
                [state[f"{layer}self_attn.{n}_proj.{kind}"] for n in "qkv"]
            )
            for mine, name in (
                ("attention.out", "self_attn.out_proj"),
                ("attention_norm", "layer_norm1"),
                ("feed_forward_norm", "layer_norm2"),
                ("feed_forward.up", "mlp.fc1"),
                ("feed_forward.down", "mlp.fc2"),
            ):
                own[f"layers.{i}.{mine}.{kind}"] = state[f"{layer}{name}.{kind}"]
    ours.load_state_dict(own)
    return ours.eval()


SIZES = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 16,
}  # fmt: skip


def test_a_causal_one_is_clip() -> None:
    torch.manual_seed(0)
    theirs = CLIPTextModel(CLIPTextConfig(**SIZES, hidden_act="quick_gelu", eos_token_id=3)).eval()
    ours, b = copied(theirs, True), batch()
    with torch.no_grad():
        wanted = theirs(input_ids=b.text_ids, attention_mask=b.text_mask.long())
        found = ours(b.text_ids, b.text_mask)
    there = b.text_mask
    torch.testing.assert_close(found.tokens[there], wanted.last_hidden_state[there], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(LastPool()(found), wanted.pooler_output, rtol=1e-4, atol=1e-5)


def test_one_that_reads_both_ways_is_siglip() -> None:
    torch.manual_seed(0)
    theirs = SiglipTextModel(SiglipTextConfig(**SIZES, hidden_act="gelu")).eval()
    ours, b = copied(theirs, False), batch()
    with torch.no_grad():
        wanted = theirs(input_ids=b.text_ids, attention_mask=b.text_mask.long()).last_hidden_state
        found = ours(b.text_ids, b.text_mask).tokens
    torch.testing.assert_close(found[b.text_mask], wanted[b.text_mask], rtol=1e-4, atol=1e-5)


def test_no_word_reads_a_later_one() -> None:
    torch.manual_seed(0)
    b = batch()
    text = ClipText(vocab_size=60, width=32, layers=2, heads=4, max_positions=16).eval()
    changed = b.text_ids.clone()
    changed[:, 3:] = 7
    one, two = text(b.text_ids, b.text_mask).tokens, text(changed, b.text_mask).tokens
    torch.testing.assert_close(one[:, :3], two[:, :3])
    assert not torch.allclose(one[0, 3:], two[0, 3:])
