"""A Llama checkpoint in safetensors (as `forebay synth llama` writes it, or Hugging Face's own): its sizes and its tensors as [outputs,
inputs]."""

import glob
import json
import os
import struct

from safetensors import safe_open


class Checkpoint:
    def __init__(self, folder):
        self.files = sorted(glob.glob(os.path.join(folder, "*.safetensors")))
        if not self.files:
            raise SystemExit(f"{folder}: no *.safetensors")
        self.where, self.shapes = {}, {}
        for path in self.files:
            with open(path, "rb") as file:
                header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
            for name, entry in header.items():
                if name != "__metadata__":
                    self.where[name], self.shapes[name] = path, entry["shape"]
        self.vocab, self.hidden = self.shapes["model.embed_tokens.weight"]
        self.layers = 1 + max(int(n.split(".")[2]) for n in self.shapes if n.startswith("model.layers."))
        self.ffn = self.shapes["model.layers.0.mlp.gate_proj.weight"][0]
        self.head_dim = 2 * self.shapes["model.rotary_emb.inv_freq"][0] if "model.rotary_emb.inv_freq" in self.shapes else 128
        self.heads = self.shapes["model.layers.0.self_attn.q_proj.weight"][0] // self.head_dim
        self.kv_heads = self.shapes["model.layers.0.self_attn.k_proj.weight"][0] // self.head_dim
        self.bytes = sum(os.path.getsize(path) for path in self.files)
        self.open_files = {}

    def read(self, name, device="cpu"):
        """The tensor, turned where the file keeps it as [inputs, outputs]: synth does that to two matrices."""
        path = self.where[name]
        if (path, device) not in self.open_files:
            self.open_files[path, device] = safe_open(path, framework="pt", device=device)
        tensor = self.open_files[path, device].get_tensor(name)
        wanted = {"up_proj": [self.ffn, self.hidden], "gate_proj": [self.ffn, self.hidden], "down_proj": [self.hidden, self.ffn]}
        for part, shape in wanted.items():
            if f".{part}.weight" in name and list(tensor.shape) == shape[::-1] != shape:
                return tensor.t().contiguous()
        return tensor

    def llama_config(self):
        """transformers' configuration of this model."""
        from transformers import LlamaConfig  # late: most peers do without transformers

        return LlamaConfig(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            intermediate_size=self.ffn,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
            attn_implementation="sdpa",
        )

    def layer_names(self, layer):
        base = f"model.layers.{layer}."
        names = [
            "input_layernorm",
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
            "post_attention_layernorm",
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.down_proj",
        ]
        return [base + name + ".weight" for name in names]


def prompt_ids(count):
    """The same prompt for every peer: token ids 0 and 1 from a fixed hash (forebay's made inputs are 0 and 1 too)."""
    return [((i * 2654435761) >> 7) & 1 for i in range(count)]
