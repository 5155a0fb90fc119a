#!/usr/bin/env python3
"""PyTorch, fully resident: torch.compile over a layer, a static cache, the whole token as one CUDA graph. torch_compiled.py FOLDER
[--tokens 64]

Tuned: inductor's coordinate descent over its matrix-vector kernels, one compiled layer serves all (its weights are arguments), greedy
sampling
inside the graph, so that nothing but a replay is left on the host."""

import argparse
import json
import statistics
import time

import torch

from checkpoint import Checkpoint, prompt_ids
from llama_torch import Positions, Shape, layer, rms

parser = argparse.ArgumentParser()
parser.add_argument("folder")
parser.add_argument("--tokens", type=int, default=64)
parser.add_argument("--prompt", type=int, default=512)
parser.add_argument("--no-tune", action="store_true", help="inductor's defaults: compiles faster")
args = parser.parse_args()
torch._inductor.config.coordinate_descent_tuning = not args.no_tune
torch.set_float32_matmul_precision("high")
checkpoint = Checkpoint(args.folder)
shape, device = Shape(checkpoint), "cuda"
layers = [[checkpoint.read(name, device) for name in checkpoint.layer_names(n)] for n in range(checkpoint.layers)]
embedding, norm, head = (checkpoint.read(name, device) for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"))
rows = args.prompt + args.tokens + 8
positions = Positions(checkpoint.read("model.rotary_emb.inv_freq"), rows, device)
cache = [[torch.zeros(shape.kv_heads, rows, shape.head_dim, dtype=torch.bfloat16, device=device) for _ in range(2)] for _ in layers]


def last(x, gain, weight):
    return torch.nn.functional.linear(rms(x[-1:], gain), weight).float().argmax(-1)


fast_layer, fast_last = torch.compile(layer, fullgraph=True, dynamic=False), torch.compile(last, fullgraph=True, dynamic=False)


def step(token, position, run_layer, run_last):
    x = embedding[token]
    cos, sin, mask = positions.at(position)
    for weights, (keys, values) in zip(layers, cache):
        x = run_layer(x, weights, keys, values, cos, sin, position, mask, shape)
    return run_last(x, norm, head)


with torch.inference_mode():
    ids = torch.tensor(prompt_ids(args.prompt), device=device)
    prefill = []
    for _ in range(4):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        first = step(ids, torch.arange(args.prompt, device=device), layer, last)
        torch.cuda.synchronize()
        prefill.append(time.perf_counter() - begin)
    token, position = first.clone(), torch.tensor([args.prompt], device=device)
    begin = time.perf_counter()
    for _ in range(2):
        step(token, position, fast_layer, fast_last)
    torch.cuda.synchronize()
    compile_seconds = time.perf_counter() - begin
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        token.copy_(step(token, position, fast_layer, fast_last))
        position.add_(1)
    position.fill_(args.prompt)
    token.copy_(first)
    times = []
    for _ in range(args.tokens):
        begin = time.perf_counter()
        graph.replay()
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - begin))
print(
    json.dumps(
        {
            "peer": "pytorch_compiled",
            "torch": torch.__version__,
            "tuned": not args.no_tune,
            "ms_per_token": statistics.median(times),
            "min_ms": min(times),
            "prefill_tokens": args.prompt,
            "prefill_ms": 1e3 * statistics.median(prefill[1:]),
            "compile_seconds": round(compile_seconds, 1),
            "torch_peak_bytes": torch.cuda.max_memory_allocated(),
        }
    )
)
