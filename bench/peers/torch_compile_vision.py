#!/usr/bin/env python3
"""Image and text encoders, fully resident: forebay beside torch.compile, in one run on one GPU.

  torch_compile_vision.py --forebay build/release/tools/forebay --work DIR [--models resnet50,vit_b] [--batches 1,8,32] [--no-peer] [--prepare]
                          [--device-pass build/release/bench/device_pass]

Exports each model with random weights to DIR as f16 ONNX, builds a plan, times passes of both and compares their outputs. One line of JSON a
model and batch: medians in ms, the largest difference, the nodes that ran on the host. torch.compile runs in its reduce-overhead mode (CUDA graphs);
torch_copies_ms is its time with the copies from and to the host that our passes make.
"""
import argparse
import collections
import json
import os
import statistics
import subprocess
import sys
import time

import numpy
import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import vision_models


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
    return done.stdout


def median(times):
    return round(statistics.median(times), 4)


def time_peer(name, batch, mode, passes, x):
    with torch.inference_mode():
        model = vision_models.make_model(name).cuda()
        if name in ("resnet50", "efficientnet_b0"):
            model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
        began = time.time()
        compiled = torch.compile(model, mode=mode)
        for _ in range(4):
            y = compiled(x)
        torch.cuda.synchronize()
        compile_s = time.time() - began
        times = []
        for _ in range(passes):
            began = time.perf_counter()
            y = compiled(x)
            torch.cuda.synchronize()
            times.append((time.perf_counter() - began) * 1e3)
        # As ours: the input comes from the host, the outputs go there.
        host, copied = x.cpu(), []
        for _ in range(passes):
            began = time.perf_counter()
            y = compiled(host.cuda())
            for part in y if isinstance(y, tuple) else (y,):
                part.cpu()
            copied.append((time.perf_counter() - began) * 1e3)
        return median(times), median(copied), round(compile_s, 1)


def expected(name, x):
    with torch.inference_mode():
        y = vision_models.make_model(name).cuda()(x)
        return (y[0] if isinstance(y, tuple) else y).float().cpu().numpy()


def prepare(args, name):
    folder = os.path.join(args.work, name)
    os.makedirs(folder, exist_ok=True)
    model, plan = os.path.join(folder, "model.onnx"), os.path.join(folder, "model.plan")
    if not os.path.exists(plan):
        vision_models.export(name, model, 2)
        batches = sorted(map(int, args.batches.split(",")))
        shapes = ["x".join(map(str, vision_models.make_input(name, batch).shape)) for batch in batches]
        given = [f"--{which}-shapes=x={shape}" for which, shape in (("min", shapes[0]), ("opt", shapes[len(shapes) // 2]), ("max", shapes[-1]))]
        run([args.forebay, "build", model, "-o", plan, "--strip", "--device", "cuda", *given])
    return folder, model, plan


def time_forebay(args, name, batch, x):
    folder, model, plan = prepare(args, name)
    numpy.save(os.path.join(folder, "x.npy"), x.cpu().numpy())
    common = [args.forebay, "run", plan, "--weights", model, "--device", "cuda", "--budget", "100%", "--input", f"x={folder}/x.npy", "--json"]
    out = json.loads(run(common + ["--iterations", str(args.passes + 3), "--output-dir", os.path.join(folder, "y")]))
    profile = os.path.join(folder, f"profile_{batch}.json")
    run(common + ["--iterations", "3", "--profile", profile])
    return out, profile


def time_device(args, name, x):
    _, model, plan = prepare(args, name)
    return float(run([args.device_pass, plan, model, str(args.passes), "x".join(map(str, x.shape)), "--executed", "1"]).split()[1])


def summarise(profile, most):
    nodes = json.load(open(profile))
    nodes = nodes.get("ops") or nodes["passes"][-1]["ops"]
    spent, count = collections.Counter(), collections.Counter()
    for node in nodes:
        key = f"{node['op']}:{node['kernel']}"
        spent[key] += node.get("compute_ms", 0)
        count[key] += 1
    return {key: [count[key], round(ms, 3)] for key, ms in spent.most_common(most)}, sorted(k for k in count if ":host." in k)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--forebay", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--models", default="resnet50,vit_b,bert_base,efficientnet_b0")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--passes", type=int, default=20)
    parser.add_argument("--mode", default="reduce-overhead")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--device-pass", help="the program that keeps the input in device memory, as the peer does; else it comes from the host")
    parser.add_argument("--prepare", action="store_true", help="export and build, and no more")
    args = parser.parse_args()
    for name in args.models.split(","):
        prepare(args, name)
        if args.prepare:
            continue
        for batch in map(int, args.batches.split(",")):
            x = vision_models.make_input(name, batch).cuda()
            out, profile = time_forebay(args, name, batch, x)
            y = expected(name, x)
            folder = os.path.join(args.work, name, "y")
            made = [numpy.load(os.path.join(folder, file)) for file in sorted(os.listdir(folder))]
            same = [m for m in made if m.shape == y.shape]
            kernels, host = summarise(profile, 12)
            line = {"model": name, "batch": batch, "forebay_ms": median(out["pass_ms"][3:]),
                    "difference": float(numpy.abs(same[0].astype(numpy.float32) - y).max()) if same else None, "largest": float(numpy.abs(y).max()),
                    "host": host, "kernels": kernels}
            if args.device_pass:
                line["device_ms"] = time_device(args, name, x)
            if not args.no_peer:
                line["torch_ms"], line["torch_copies_ms"], line["compile_s"] = time_peer(name, batch, args.mode, args.passes, x)
                line["ratio"] = round(line.get("device_ms", line["forebay_ms"]) / line["torch_ms"], 2)
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
