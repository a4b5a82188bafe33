#!/usr/bin/env python3
"""Writes the golden files beside it: tiny random models of Hugging Face transformers, in float64.

Usage: make_goldens.py [family ...]      needs torch and transformers (made with torch 2.15, transformers 5.23); building and testing do not

<family>.safetensors holds, under this project's parameter names, `weights/*` and `gradients/*` (of the mean cross-entropy of the next
token), and `tokens`, `logits`. <family>.yaml, written by hand, is the same model in this project's words; tests/trainer/golden_test.cpp
compares the two.
"""
import os
import sys

import torch

# The reference casts to float32 in many places. With the name pointing to float64 all of it runs in double.
torch.float32 = torch.float = torch.float64
torch.Tensor.float = lambda self, *args, **kwargs: self.double()
torch.set_default_dtype(torch.float64)

import transformers as hf  # noqa: E402  (after the names are changed)
from safetensors.torch import save_file  # noqa: E402

VOCABULARY, ROWS, LENGTH = 37, 2, 11


# What of the reference a parameter is: (our name, tensor of the reference -> its part). A name maps to one or several parts.
def rows(names, sizes):
    """Parts stacked along dim 0."""
    parts, begin = [], 0
    for name, size in zip(names, sizes):
        parts.append((name, lambda t, b=begin, s=size: t[b:b + s]))
        begin += size
    return parts


def whole(name):
    return [(name, lambda t: t)]


def attention(ours, theirs):
    return {
        f"{theirs}.q_proj.weight": whole(f"{ours}.qkv.q"),
        f"{theirs}.k_proj.weight": whole(f"{ours}.qkv.k"),
        f"{theirs}.v_proj.weight": whole(f"{ours}.qkv.v"),
        f"{theirs}.o_proj.weight": whole(f"{ours}.out_proj"),
    }


def gated_mlp(ours, theirs):
    return {
        f"{theirs}.gate_proj.weight": whole(f"{ours}.gate_up.gate"),
        f"{theirs}.up_proj.weight": whole(f"{ours}.gate_up.up"),
        f"{theirs}.down_proj.weight": whole(f"{ours}.down"),
    }


def mamba2(ours, theirs, inner, groups_times_state, heads):
    bc = groups_times_state
    conv = [inner, bc, bc]
    return {
        f"{theirs}.in_proj.weight": rows([f"{ours}.in_proj.{p}" for p in ("z", "x", "B", "C", "dt")], [inner, inner, bc, bc, heads]),
        f"{theirs}.conv1d.weight": [(n, lambda t, f=f: f(t.squeeze(1))) for n, f in rows([f"{ours}.conv.{p}" for p in "xBC"], conv)],
        f"{theirs}.conv1d.bias": rows([f"{ours}.conv_bias.{p}" for p in "xBC"], conv),
        f"{theirs}.dt_bias": whole(f"{ours}.dt_bias"),
        f"{theirs}.A_log": whole(f"{ours}.A_log"),
        f"{theirs}.D": whole(f"{ours}.D"),
        f"{theirs}.norm.weight": whole(f"{ours}.norm"),
        f"{theirs}.out_proj.weight": whole(f"{ours}.out_proj"),
    }


def mamba1(ours, theirs, inner, rank, state):
    return {
        f"{theirs}.in_proj.weight": rows([f"{ours}.in_proj.x", f"{ours}.in_proj.z"], [inner, inner]),
        f"{theirs}.conv1d.weight": [(f"{ours}.conv", lambda t: t.squeeze(1))],
        f"{theirs}.conv1d.bias": whole(f"{ours}.conv_bias"),
        f"{theirs}.x_proj.weight": rows([f"{ours}.x_proj.{p}" for p in ("dt", "B", "C")], [rank, state, state]),
        f"{theirs}.dt_proj.weight": whole(f"{ours}.dt_proj"),
        f"{theirs}.dt_proj.bias": whole(f"{ours}.dt_bias"),
        f"{theirs}.A_log": whole(f"{ours}.A_log"),
        f"{theirs}.D": whole(f"{ours}.D"),
        f"{theirs}.dt_layernorm.weight": whole(f"{ours}.dt_norm"),
        f"{theirs}.b_layernorm.weight": whole(f"{ours}.b_norm"),
        f"{theirs}.c_layernorm.weight": whole(f"{ours}.c_norm"),
        f"{theirs}.out_proj.weight": whole(f"{ours}.out_proj"),
    }


def ends(prefix, embedding, norm):
    return {f"{prefix}.{embedding}.weight": whole("embedding"), f"{prefix}.{norm}.weight": whole("final_norm"),
            "lm_head.weight": whole("head")}


def norm(ours, theirs):
    return {f"{theirs}.weight": whole(f"{ours}.input_norm")}


# Each family: the reference's model, and the map from its parameter names to ours (names that a variant lacks may be listed).
def llama():
    config = hf.LlamaConfig(vocab_size=VOCABULARY, hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=3,
                            num_key_value_heads=1, head_dim=6, rms_norm_eps=1e-6, tie_word_embeddings=False)
    names = ends("model", "embed_tokens", "norm")
    for i in range(2):
        at, mine = f"model.layers.{i}", f"layers.{i}"
        names |= attention(f"{mine}.attention", f"{at}.self_attn") | gated_mlp(f"{mine}.mlp", f"{at}.mlp")
        names |= norm(f"{mine}.attention", f"{at}.input_layernorm") | norm(f"{mine}.mlp", f"{at}.post_attention_layernorm")
    return hf.LlamaForCausalLM(config), names


def mamba():
    config = hf.MambaConfig(vocab_size=VOCABULARY, hidden_size=10, state_size=5, num_hidden_layers=2, conv_kernel=4, expand=2,
                            time_step_rank=3)
    names = ends("backbone", "embeddings", "norm_f")
    for i in range(2):
        at, mine = f"backbone.layers.{i}", f"layers.{i}.mamba1"
        names |= mamba1(mine, f"{at}.mixer", 20, 3, 5) | norm(mine, f"{at}.norm")
    return hf.MambaForCausalLM(config), names


def mamba2_family():
    config = hf.Mamba2Config(vocab_size=VOCABULARY, hidden_size=9, num_heads=6, head_dim=3, state_size=5, expand=2, n_groups=2,
                             num_hidden_layers=2, chunk_size=4, conv_kernel=4)
    names = ends("backbone", "embeddings", "norm_f")
    for i in range(2):
        at, mine = f"backbone.layers.{i}", f"layers.{i}.mamba2"
        names |= mamba2(mine, f"{at}.mixer", 18, 10, 6) | norm(mine, f"{at}.norm")
    return hf.Mamba2ForCausalLM(config), names


def experts(ours, theirs, gated):
    """Gate and up are one tensor [E, 2F, d] there; every projection is [E, out, in]."""
    first = "gate_up_proj" if gated else "up_proj"
    return {f"{theirs}.{first}": whole(f"{ours}.experts.{'gate_up' if gated else 'up'}"), f"{theirs}.down_proj": whole(f"{ours}.experts.down")}


def jamba():
    config = hf.JambaConfig(vocab_size=VOCABULARY, hidden_size=10, intermediate_size=14, num_hidden_layers=4, num_attention_heads=5,
                            num_key_value_heads=1, attn_layer_period=4, attn_layer_offset=2, expert_layer_period=2, expert_layer_offset=1,
                            num_experts=3, num_experts_per_tok=2, mamba_d_state=4, mamba_d_conv=3, mamba_expand=2, mamba_dt_rank=3)
    names = ends("model", "embed_tokens", "final_layernorm")
    for i in range(4):
        at, mine = f"model.layers.{i}", f"layers.{i}"
        mixer = f"{mine}.attention" if i == 2 else f"{mine}.mamba1"
        ffn = f"{mine}.moe" if i % 2 == 1 else f"{mine}.mlp"
        names |= attention(mixer, f"{at}.self_attn") if i == 2 else mamba1(mixer, f"{at}.mamba", 20, 3, 4)
        if i % 2 == 1:
            names |= {f"{at}.feed_forward.router.weight": whole(f"{ffn}.router")} | experts(ffn, f"{at}.feed_forward.experts", True)
        else:
            names |= gated_mlp(ffn, f"{at}.feed_forward")
        names |= norm(mixer, f"{at}.input_layernorm") | norm(ffn, f"{at}.pre_ff_layernorm")
    return hf.JambaForCausalLM(config), names


def bamba():
    config = hf.BambaConfig(vocab_size=VOCABULARY, hidden_size=12, intermediate_size=20, num_hidden_layers=3, num_attention_heads=3,
                            num_key_value_heads=1, attn_layer_indices=[1], mamba_n_heads=6, mamba_d_head=4, mamba_n_groups=1,
                            mamba_d_state=5, mamba_expand=2, mamba_chunk_size=4, tie_word_embeddings=False)
    names = ends("model", "embed_tokens", "final_layernorm")
    for i in range(3):
        at, mine = f"model.layers.{i}", f"layers.{i}"
        mixer = f"{mine}.attention" if i == 1 else f"{mine}.mamba2"
        names |= attention(mixer, f"{at}.self_attn") if i == 1 else mamba2(mixer, f"{at}.mamba", 24, 5, 6)
        names |= gated_mlp(f"{mine}.mlp", f"{at}.feed_forward")
        names |= norm(mixer, f"{at}.input_layernorm") | norm(f"{mine}.mlp", f"{at}.pre_ff_layernorm")
    return hf.BambaForCausalLM(config), names


def nemotron_h():
    kinds = ["linear_attention", "mlp", "full_attention", "moe", "linear_attention"]
    config = hf.NemotronHConfig(vocab_size=VOCABULARY, hidden_size=10, intermediate_size=14, layers_block_type=kinds, num_attention_heads=3,
                                num_key_value_heads=1, head_dim=4, ssm_state_size=5, mamba_num_heads=6, mamba_head_dim=3, n_groups=2,
                                chunk_size=4, n_routed_experts=5, num_experts_per_tok=2, moe_intermediate_size=7,
                                moe_shared_expert_intermediate_size=6, routed_scaling_factor=2.5)
    names = ends("model", "embeddings", "norm_f")
    for i, kind in enumerate(kinds):
        theirs, mine = f"model.layers.{i}.mixer", f"layers.{i}"
        if kind == "linear_attention":
            core = f"{mine}.mamba2"
            names |= mamba2(core, theirs, 18, 10, 6)
        elif kind == "full_attention":
            core = f"{mine}.attention"
            names |= attention(core, theirs)
        elif kind == "mlp":
            core = f"{mine}.mlp"
            names |= {f"{theirs}.up_proj.weight": whole(f"{core}.up"), f"{theirs}.down_proj.weight": whole(f"{core}.down")}
        else:
            core = f"{mine}.moe"
            names |= {f"{theirs}.gate.weight": whole(f"{core}.router"),
                      f"{theirs}.gate.e_score_correction_bias": whole(f"{core}.balance_bias"),
                      f"{theirs}.shared_experts.up_proj.weight": whole(f"{core}.shared.up"),
                      f"{theirs}.shared_experts.down_proj.weight": whole(f"{core}.shared.down")}
            names |= experts(core, f"{theirs}.experts", False)
        names |= norm(core, f"model.layers.{i}.norm")
    return hf.NemotronHForCausalLM(config), names


def granite_4_h():
    kinds = ["mamba", "attention", "mamba"]
    config = hf.GraniteMoeHybridConfig(vocab_size=VOCABULARY, hidden_size=12, intermediate_size=7, shared_intermediate_size=9,
                                       num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=1, layer_types=kinds,
                                       num_local_experts=5, num_experts_per_tok=2, mamba_n_heads=6, mamba_d_head=4, mamba_n_groups=1,
                                       mamba_d_state=5, mamba_expand=2, mamba_chunk_size=4, embedding_multiplier=12,
                                       residual_multiplier=0.22, attention_multiplier=0.2, logits_scaling=8, rms_norm_eps=1e-5,
                                       position_embedding_type="nope", tie_word_embeddings=True)
    names = ends("model", "embed_tokens", "norm")
    for i, kind in enumerate(kinds):
        at, mine = f"model.layers.{i}", f"layers.{i}"
        mixer, ffn = f"{mine}.{'mamba2' if kind == 'mamba' else kind}", f"{mine}.moe"
        names |= mamba2(mixer, f"{at}.mamba", 24, 5, 6) if kind == "mamba" else attention(mixer, f"{at}.self_attn")
        names |= {f"{at}.block_sparse_moe.router.weight": whole(f"{ffn}.router"),
                  f"{at}.shared_mlp.input_linear.weight": rows([f"{ffn}.shared.gate_up.gate", f"{ffn}.shared.gate_up.up"], [9, 9]),
                  f"{at}.shared_mlp.output_linear.weight": whole(f"{ffn}.shared.down")}
        names |= experts(ffn, f"{at}.block_sparse_moe.experts", True)
        names |= norm(mixer, f"{at}.input_layernorm") | norm(ffn, f"{at}.post_attention_layernorm")
    return hf.GraniteMoeHybridForCausalLM(config), names


def falcon_h1():
    config = hf.FalconH1Config(vocab_size=VOCABULARY, hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=3,
                               num_key_value_heads=1, head_dim=4, mamba_d_ssm=24, mamba_n_heads=6, mamba_d_head=4, mamba_n_groups=2,
                               mamba_d_state=5, mamba_chunk_size=4, embedding_multiplier=5.65, lm_head_multiplier=0.39, key_multiplier=0.39,
                               attention_in_multiplier=1.1, attention_out_multiplier=0.93, ssm_in_multiplier=1.25, ssm_out_multiplier=0.23,
                               ssm_multipliers=[0.35, 0.25, 0.36, 0.5, 0.37], mlp_multipliers=[0.88, 0.58], mamba_rms_norm=False,
                               rms_norm_eps=1e-5, tie_word_embeddings=False,
                               rope_parameters={"rope_type": "default", "rope_theta": 1e5})
    names = ends("model", "embed_tokens", "final_layernorm")
    for i in range(2):
        at, mine = f"model.layers.{i}", f"layers.{i}"
        names |= attention(f"{mine}.parallel.0.attention", f"{at}.self_attn")
        names |= mamba2(f"{mine}.parallel.1.mamba2", f"{at}.mamba", 24, 10, 6)
        names |= gated_mlp(f"{mine}.mlp", f"{at}.feed_forward")
        names |= norm(f"{mine}.parallel", f"{at}.input_layernorm") | norm(f"{mine}.mlp", f"{at}.pre_ff_layernorm")
    return hf.FalconH1ForCausalLM(config), names


FAMILIES = {"llama": llama, "mamba": mamba, "mamba2": mamba2_family, "jamba": jamba, "bamba": bamba, "nemotron_h": nemotron_h,
            "granite_4_h": granite_4_h, "falcon_h1": falcon_h1}


def shake(model):
    """Moves every weight off its initial value, so that none is 0 or 1 and each matters."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "A_log" not in name:
                parameter.copy_(torch.randn_like(parameter) * (1.5 / parameter.shape[-1] ** 0.5))
            elif name.endswith("A_log"):
                parameter.copy_(torch.rand_like(parameter) * 2 - 0.5)
            elif name.endswith("bias"):
                parameter.copy_(torch.randn_like(parameter) * 0.5)
            else:
                parameter.copy_(torch.rand_like(parameter) + 0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(torch.randn_like(buffer) * 0.2)


def make(family):
    torch.manual_seed(1)
    model, names = FAMILIES[family]()
    model = model.double().train()
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.padding_idx = None  # which would keep the gradient of its row at zero
    shake(model)
    tokens = torch.randint(0, VOCABULARY, (ROWS, LENGTH + 1))
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    assert logits.dtype == torch.float64
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCABULARY), tokens[:, 1:].reshape(-1))
    loss.backward()
    out = {"tokens": tokens, "logits": logits.detach().contiguous(), "loss": loss.detach().reshape(1)}
    held = dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if n in names}
    for theirs, tensor in held.items():
        for ours, part in names[theirs]:
            out[f"weights/{ours}"] = part(tensor.detach()).clone().contiguous()
            if tensor.grad is not None:
                out[f"gradients/{ours}"] = part(tensor.grad).clone().contiguous()
    file = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{family}.safetensors")
    save_file(out, file)
    print(f"{family}: loss {loss.item():.6f}, {sum(p.numel() for p in model.parameters())} parameters, {os.path.getsize(file)} bytes")


for chosen in sys.argv[1:] or FAMILIES:
    make(chosen)
