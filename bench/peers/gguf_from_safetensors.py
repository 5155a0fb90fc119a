#!/usr/bin/env python3
"""Writes a Llama checkpoint as GGUF (bf16 matrices, f32 gains, no tokenizer) for llama.cpp's llama-bench. gguf_from_safetensors.py FOLDER
OUT.gguf"""

import struct
import sys

import torch

from checkpoint import Checkpoint

F32, BF16, ALIGN = 0, 30, 4096
PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key, value):
    if isinstance(value, str):
        return text(key) + struct.pack("<I", 8) + text(value)
    if isinstance(value, float):
        return text(key) + struct.pack("<If", 6, value)
    return text(key) + struct.pack("<II", 4, value)


def interleaved(weight, heads):
    """GGUF's Llama rotates neighbours, the checkpoint halves: the rows of each head change places."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def main():
    checkpoint = Checkpoint(sys.argv[1])
    inv_freq = checkpoint.read("model.rotary_emb.inv_freq")
    base = float(inv_freq[1]) ** (-checkpoint.head_dim / 2)
    pairs = {
        "general.architecture": "llama",
        "general.alignment": ALIGN,
        "llama.vocab_size": checkpoint.vocab,
        "llama.context_length": 8192,
        "llama.embedding_length": checkpoint.hidden,
        "llama.block_count": checkpoint.layers,
        "llama.feed_forward_length": checkpoint.ffn,
        "llama.attention.head_count": checkpoint.heads,
        "llama.attention.head_count_kv": checkpoint.kv_heads,
        "llama.attention.key_length": checkpoint.head_dim,
        "llama.attention.value_length": checkpoint.head_dim,
        "llama.rope.dimension_count": checkpoint.head_dim,
        "llama.rope.freq_base": float(round(base)),
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "none",
    }
    tensors = [("token_embd.weight", "model.embed_tokens.weight")]
    for layer in range(checkpoint.layers):
        tensors += [(f"blk.{layer}.{to}.weight", f"model.layers.{layer}.{part}.weight") for part, to in PARTS.items()]
    tensors += [("output_norm.weight", "model.norm.weight"), ("output.weight", "lm_head.weight")]

    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(entry(k, v) for k, v in pairs.items())
    at = 0
    for name, source in tensors:
        dims = checkpoint.shapes[source]
        if source.endswith("up_proj.weight"):
            dims = [checkpoint.ffn, checkpoint.hidden]
        if source.endswith("down_proj.weight"):
            dims = [checkpoint.hidden, checkpoint.ffn]
        kind, size = (F32, 4) if len(dims) == 1 else (BF16, 2)
        head += (
            text(name)
            + struct.pack("<I", len(dims))
            + b"".join(struct.pack("<Q", d) for d in reversed(dims))
            + struct.pack("<IQ", kind, at)
        )
        count = 1
        for d in dims:
            count *= d
        at += -(-count * size // ALIGN) * ALIGN
    with open(sys.argv[2], "wb") as out:
        out.write(head + bytes(-len(head) % ALIGN))
        for name, source in tensors:
            tensor = checkpoint.read(source)
            if tensor.dim() == 1:
                data = tensor.float().numpy().tobytes()
            else:
                if "attn_q." in name or "attn_k." in name:
                    tensor = interleaved(tensor, checkpoint.heads if "attn_q." in name else checkpoint.kv_heads)
                data = tensor.contiguous().view(torch.int16).numpy().data.cast("B")
            out.write(data)
            out.write(bytes(-len(data) % ALIGN))


if __name__ == "__main__":
    main()
