#!/usr/bin/env python3
"""DeepSpeed ZeRO-Inference: stage 3, parameters in page-locked host memory, or on NVMe with --nvme. deepspeed_inference.py FOLDER [--nvme DIR]

Tuned: max_live_parameters 1.1e9 and no persistence, so that it holds as little as it can while layers are fetched ahead. From NVMe: libaio,
blocks of 8 MiB, depth 32, 8 threads; that needs DeepSpeed's async_io operator (libaio-dev, built at the first call), and leaves the
parameters as they were initialised: what they hold does not change how long they take to read. The files on NVMe are dropped from the page
cache before the tokens.

peak_device_bytes is the most that the driver showed while the tokens were made: DeepSpeed needs more to begin (it makes the parameters on the
device), which is given back to the driver before.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import time

from peak_memory import Peak

peak = Peak()  # ahead of all that makes a CUDA context: it counts

import deepspeed
import torch
import transformers
from transformers import LlamaForCausalLM

from checkpoint import Checkpoint, prompt_ids

parser = argparse.ArgumentParser()
parser.add_argument("folder")
parser.add_argument("--nvme", default="", metavar="DIR", help="a folder on the disk to be read from")
parser.add_argument("--dtype", default="bf16", choices=["bf16", "f16"])
parser.add_argument("--tokens", type=int, default=0, help="0: 5 from host memory, 3 from NVMe")
parser.add_argument("--prompt", type=int, default=16)
args = parser.parse_args()
tokens = args.tokens or (3 if args.nvme else 5)
dtype = torch.bfloat16 if args.dtype == "bf16" else torch.float16
start = time.perf_counter()


def say(text):
    print(f"{time.perf_counter() - start:.1f} s: {text}", file=sys.stderr, flush=True)


for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29541"}.items():
    os.environ.setdefault(name, value)
deepspeed.init_distributed()
offload = {"device": "cpu", "pin_memory": True}
if args.nvme:
    offload = {"device": "nvme", "nvme_path": args.nvme, "pin_memory": True, "buffer_count": 6, "buffer_size": 1 << 29, "max_in_cpu": 0}
settings = {
    "train_micro_batch_size_per_gpu": 1,
    "bf16": {"enabled": args.dtype == "bf16"},
    "fp16": {"enabled": args.dtype == "f16"},
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
config = checkpoint.llama_config()
say("the model")
# Parameters are partitioned as they are made; then each gets its values, where it lies.
with deepspeed.zero.Init(config_dict_or_path=settings, dtype=dtype):
    model = LlamaForCausalLM(config)
say("its values")
if not args.nvme:
    for name, parameter in model.named_parameters():
        value = checkpoint.read(name).to(dtype).flatten()
        if parameter.ds_tensor.numel() != value.numel():
            sys.exit(f"{name}: the partition has {parameter.ds_tensor.numel()} elements, the checkpoint {value.numel()}")
        parameter.ds_tensor.copy_(value)
device = deepspeed.get_accelerator().current_device_name()
if "model.rotary_emb.inv_freq" in checkpoint.where:
    model.model.rotary_emb.inv_freq = checkpoint.read("model.rotary_emb.inv_freq").to(device)
say("the engine")
engine = deepspeed.initialize(model=model, config=settings)[0]
engine.module.eval()
if args.nvme:
    os.sync()
    for folder, _, files in os.walk(args.nvme):
        for file in files:
            with open(os.path.join(folder, file), "rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
say("the prompt")
with torch.no_grad():
    out = engine.module(torch.tensor([prompt_ids(args.prompt)], device=device), use_cache=True, logits_to_keep=1)
    deepspeed.get_accelerator().synchronize()
    gc.collect()
    deepspeed.get_accelerator().empty_cache()
    times = []
    with peak:
        for _ in range(tokens):
            token = out.logits[:, -1:].argmax(-1)
            deepspeed.get_accelerator().synchronize()
            begin = time.perf_counter()
            out = engine.module(token, past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1)
            out.logits.sum().item()
            times.append(1e3 * (time.perf_counter() - begin))
            say(f"a token, {times[-1]:.0f} ms; the most in use so far {peak.bytes} bytes")
if not peak.steady:
    sys.exit("another process gave device memory back meanwhile: the peak is unknown")
print(
    json.dumps(
        {
            "peer": "deepspeed_zero_inference_" + ("nvme" if args.nvme else "host"),
            "deepspeed": deepspeed.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "ms_per_token": statistics.median(times[1:]),
            "min_ms": min(times),
            "peak_device_bytes": peak.bytes,
            "from_disk": bool(args.nvme),
        }
    )
)
