#!/usr/bin/env python3
"""transformers' LlamaForCausalLM with its own cache, greedy. hf_decode.py FOLDER [--max-memory 6GiB]

Without --max-memory everything lies on the device (eager). With it accelerate places modules: that much on the device, the rest in host
memory.
"""

import argparse
import json
import statistics
import time

import torch
from accelerate import dispatch_model, infer_auto_device_map, init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from transformers import LlamaForCausalLM

from checkpoint import Checkpoint, prompt_ids

parser = argparse.ArgumentParser()
parser.add_argument("folder")
parser.add_argument("--max-memory", default="")
parser.add_argument("--tokens", type=int, default=0, help="0: 32 resident, 3 with --max-memory")
parser.add_argument("--prompt", type=int, default=16)
args = parser.parse_args()
checkpoint = Checkpoint(args.folder)
tokens = args.tokens or (3 if args.max_memory else 32)
config = checkpoint.llama_config()
with init_empty_weights():
    model = LlamaForCausalLM(config).to(torch.bfloat16)
places = {"": 0}
if args.max_memory:
    places = infer_auto_device_map(
        model, max_memory={0: args.max_memory, "cpu": "200GiB"}, no_split_module_classes=["LlamaDecoderLayer"], dtype=torch.bfloat16
    )


def place_of(name):
    while name and name not in places:
        name = name.rpartition(".")[0]
    return places[name]


for name, _ in model.named_parameters():
    place = place_of(name)
    tensor = checkpoint.read(name, "cpu" if place == "cpu" else "cuda")
    # A copy in memory of its own, as a loaded checkpoint is: not pages of the file.
    set_module_tensor_to_device(model, name, "cpu" if place == "cpu" else 0, tensor.clone() if place == "cpu" else tensor)
model.model.rotary_emb = type(model.model.rotary_emb)(config).to("cuda")  # its buffer is no parameter
if "model.rotary_emb.inv_freq" in checkpoint.where:
    model.model.rotary_emb.inv_freq = checkpoint.read("model.rotary_emb.inv_freq", "cuda")
if args.max_memory:
    model = dispatch_model(model, places, main_device=0)
model.eval()
with torch.inference_mode():
    out = model(torch.tensor([prompt_ids(args.prompt)], device="cuda"), use_cache=True, logits_to_keep=1)
    times = []
    for _ in range(tokens):
        token = out.logits[:, -1:].argmax(-1)
        torch.cuda.synchronize()
        begin = time.perf_counter()
        out = model(token, past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1)
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - begin))
import accelerate
import transformers

print(
    json.dumps(
        {
            "peer": "accelerate_max_memory" if args.max_memory else "transformers_eager",
            "max_memory": args.max_memory,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "accelerate": accelerate.__version__,
            "ms_per_token": statistics.median(times),
            "min_ms": min(times),
            "torch_peak_bytes": torch.cuda.max_memory_allocated(),
        }
    )
)
