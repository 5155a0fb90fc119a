#!/usr/bin/env python3
"""Hand-written streaming in PyTorch: layers in page-locked memory, two layer buffers on the device, a copy stream; embedding and head
resident.
torch_double_buffer.py FOLDER [--tokens 8]

Tuned: one flat page-locked buffer a layer, so that a layer is one copy; the next layer is copied while this one computes; across tokens
too.
"""

import argparse
import json
import statistics
import time

import torch

from checkpoint import Checkpoint, prompt_ids
from llama_torch import Positions, Shape, layer, rms

parser = argparse.ArgumentParser()
parser.add_argument("folder")
parser.add_argument("--tokens", type=int, default=8)
parser.add_argument("--prompt", type=int, default=16)
args = parser.parse_args()
checkpoint = Checkpoint(args.folder)
shape, device = Shape(checkpoint), "cuda"


def flat_layer(n):
    parts = [checkpoint.read(name) for name in checkpoint.layer_names(n)]
    flat = torch.empty(sum(p.numel() for p in parts), dtype=parts[0].dtype, pin_memory=True)
    at = 0
    for part in parts:
        flat[at : at + part.numel()].copy_(part.reshape(-1))
        at += part.numel()
    return flat, [p.shape for p in parts]


def views(flat, shapes):
    out, at = [], 0
    for s in shapes:
        out.append(flat[at : at + s.numel()].view(s))
        at += s.numel()
    return out


host, shapes = zip(*(flat_layer(n) for n in range(checkpoint.layers)))
buffers = [torch.empty_like(host[0], device=device) for _ in range(2)]
weights = [views(buffer, shapes[0]) for buffer in buffers]
embedding, norm, head = (checkpoint.read(name, device) for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"))
rows = args.prompt + args.tokens + 8
positions = Positions(checkpoint.read("model.rotary_emb.inv_freq"), rows, device)
cache = [[torch.zeros(shape.kv_heads, rows, shape.head_dim, dtype=torch.bfloat16, device=device) for _ in range(2)] for _ in host]
copies = torch.cuda.Stream()
filled, free = [torch.cuda.Event() for _ in range(2)], [torch.cuda.Event() for _ in range(2)]
loads = 0


def load_next():
    global loads
    slot = loads % 2
    with torch.cuda.stream(copies):
        copies.wait_event(free[slot])
        buffers[slot].copy_(host[loads % len(host)], non_blocking=True)
        filled[slot].record(copies)
    loads += 1


def step(token, position):
    x = embedding[token]
    cos, sin, mask = positions.at(position)
    for n, (keys, values) in enumerate(cache):
        slot = use[0] % 2
        torch.cuda.current_stream().wait_event(filled[slot])
        x = layer(x, weights[slot], keys, values, cos, sin, position, mask, shape)
        free[slot].record()
        use[0] += 1
        load_next()
    return torch.nn.functional.linear(rms(x[-1:], norm), head).float().argmax(-1)


with torch.inference_mode():
    use = [0]
    for event in free:
        event.record()
    load_next()
    load_next()
    token = step(torch.tensor(prompt_ids(args.prompt), device=device), torch.arange(args.prompt, device=device))
    times = []
    for t in range(args.tokens):
        torch.cuda.current_stream().synchronize()
        begin = time.perf_counter()
        token = step(token, torch.tensor([args.prompt + t], device=device))
        token.tolist()
        times.append(1e3 * (time.perf_counter() - begin))
    torch.cuda.synchronize()
print(
    json.dumps(
        {
            "peer": "pytorch_double_buffer",
            "torch": torch.__version__,
            "ms_per_token": statistics.median(times),
            "min_ms": min(times),
            "streamed_bytes": sum(h.numel() * h.element_size() for h in host),
            "torch_peak_bytes": torch.cuda.max_memory_allocated(),
        }
    )
)
