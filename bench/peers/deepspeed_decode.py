#!/usr/bin/env python3
"""DeepSpeed ZeRO-Inference: stage 3, parameters in page-locked host memory, or on NVMe with --nvme FOLDER. deepspeed_decode.py FOLDER

Tuned: max_live_parameters 1.1e9 and no persistence, so that it holds and fetches as little as it can while layers are fetched ahead. From
NVMe: libaio,
blocks of 8 MiB, depth 32, 8 threads (needs DeepSpeed's async_io operator; host memory needs none: DS_BUILD_OPS=0)."""

import argparse
import json
import os
import statistics
import time

import deepspeed
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from checkpoint import Checkpoint, prompt_ids

parser = argparse.ArgumentParser()
parser.add_argument("folder")
parser.add_argument("--nvme", default="")
parser.add_argument("--tokens", type=int, default=5)
parser.add_argument("--prompt", type=int, default=16)
args = parser.parse_args()
for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29541"}.items():
    os.environ.setdefault(name, value)
deepspeed.init_distributed()
offload = (
    {"device": "nvme", "nvme_path": args.nvme, "pin_memory": True, "buffer_count": 5, "buffer_size": 1 << 29}
    if args.nvme
    else {"device": "cpu", "pin_memory": True}
)
settings = {
    "train_micro_batch_size_per_gpu": 1,
    "bf16": {"enabled": True},
    "zero_optimization": {
        "stage": 3,
        "offload_param": offload,
        "stage3_max_live_parameters": 1.1e9,
        "stage3_param_persistence_threshold": 0,
        "stage3_prefetch_bucket_size": 2.5e8,
    },
    "aio": {"block_size": 8 << 20, "queue_depth": 32, "intra_op_parallelism": 8, "single_submit": False, "overlap_events": True},
}
checkpoint = Checkpoint(args.folder)
config = LlamaConfig(
    vocab_size=checkpoint.vocab,
    hidden_size=checkpoint.hidden,
    intermediate_size=checkpoint.ffn,
    num_hidden_layers=checkpoint.layers,
    num_attention_heads=checkpoint.heads,
    num_key_value_heads=checkpoint.kv_heads,
    head_dim=checkpoint.head_dim,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
    attn_implementation="sdpa",
)
# Parameters are partitioned as they are made; then each gets its values.
with deepspeed.zero.Init(config_dict_or_path=settings, dtype=torch.bfloat16):
    model = LlamaForCausalLM(config)
for name, parameter in model.named_parameters():
    with deepspeed.zero.GatheredParameters(parameter, modifier_rank=0):
        parameter.data.copy_(checkpoint.read(name))
device = deepspeed.get_accelerator().current_device_name()
if "model.rotary_emb.inv_freq" in checkpoint.where:
    model.model.rotary_emb.inv_freq = checkpoint.read("model.rotary_emb.inv_freq").to(device)
engine = deepspeed.initialize(model=model, config=settings)[0]
engine.module.eval()
with torch.no_grad():
    out = engine.module(torch.tensor([prompt_ids(args.prompt)], device=device), use_cache=True, logits_to_keep=1)
    times = []
    for _ in range(args.tokens):
        token = out.logits[:, -1:].argmax(-1)
        deepspeed.get_accelerator().synchronize()
        begin = time.perf_counter()
        out = engine.module(token, past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1)
        out.logits.sum().item()
        times.append(1e3 * (time.perf_counter() - begin))
print(
    json.dumps(
        {
            "peer": "deepspeed_zero_inference_" + ("nvme" if args.nvme else "host"),
            "deepspeed": deepspeed.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "ms_per_token": statistics.median(times[1:]),
            "min_ms": min(times),
        }
    )
)
