#!/usr/bin/env python3
"""Resident pass time of forebay beside ONNX Runtime: the same model, inputs and threads, alternating pairs, medians.

  ort_compare.py --forebay build/release/tools/forebay --threads 2 MODEL.onnx [--shapes x=1x3x48x320] [--pairs 11] [--passes 20]
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnxruntime as ort

TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float16)": np.float16,
         "tensor(bool)": np.bool_, "tensor(uint8)": np.uint8, "tensor(double)": np.float64}


def parse_shapes(words):
    shapes = {}
    for word in words:
        name, dims = word.split("=")
        shapes[name] = [int(d) for d in dims.split("x")]
    return shapes


def make_inputs(session, shapes):
    rng = np.random.default_rng(1)
    inputs = {}
    for info in session.get_inputs():
        dims = shapes.get(info.name) or [d if isinstance(d, int) else (0 if "past" in str(d) else 1) for d in info.shape]
        dtype = TYPES[info.type]
        if np.issubdtype(dtype, np.floating):
            inputs[info.name] = rng.uniform(-1, 1, dims).astype(dtype)
        else:
            inputs[info.name] = rng.integers(0, 2, dims).astype(dtype)
    return inputs


def ort_time(session, inputs, passes):
    session.run(None, inputs)
    times = []
    for _ in range(passes):
        start = time.perf_counter()
        session.run(None, inputs)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def forebay_time(args, plan, folder, inputs):
    command = [args.forebay, "bench", plan, "--budget", "unlimited", "--threads", str(args.threads), "--iterations", str(args.passes), "--quick", "--json",
               "--input"] + [f"{name}={folder}/{i}.npy" for i, name in enumerate(inputs)]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result["rows"][0]["pass_ms"]["p50"]


def ort_cpu(session, inputs, passes):
    session.run(None, inputs)
    start = time.process_time()
    for _ in range(passes):
        session.run(None, inputs)
    return (time.process_time() - start) * 1e3 / passes


def forebay_cpu(args, plan, folder, inputs):
    """Processor time of a pass: what a run of more passes takes beyond one of few."""

    def spent(passes):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([args.forebay, "run", plan, "--threads", str(args.threads), "--iterations", str(passes), "--input"]
                       + [f"{name}={folder}/{i}.npy" for i, name in enumerate(inputs)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return (spent(args.passes + 2) - spent(2)) * 1e3 / args.passes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--forebay", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "../build/release/tools/forebay"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--passes", type=int, default=20)
    parser.add_argument("--shapes", nargs="*", default=[])
    parser.add_argument("--cpu", action="store_true", help="processor time of one thread in place of wall time: for machines that others load")
    args = parser.parse_args()
    if args.cpu:
        args.threads = 1
    ours_of, theirs_of = (forebay_cpu, ort_cpu) if args.cpu else (forebay_time, ort_time)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = args.threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(args.model, options, providers=["CPUExecutionProvider"])
    inputs = make_inputs(session, parse_shapes(args.shapes))
    with tempfile.TemporaryDirectory() as folder:
        plan = os.path.join(folder, "model.plan")
        subprocess.run([args.forebay, "build", args.model, "-o", plan], check=True, stdout=subprocess.DEVNULL)
        for i, value in enumerate(inputs.values()):
            np.save(os.path.join(folder, f"{i}.npy"), value)
        ours, theirs, ratios = [], [], []
        for _ in range(args.pairs):
            ours.append(ours_of(args, plan, folder, inputs))
            theirs.append(theirs_of(session, inputs, args.passes))
            ratios.append(ours[-1] / theirs[-1])
    print(json.dumps({"model": args.model, "threads": args.threads, "time": "processor" if args.cpu else "wall", "pairs": args.pairs, "onnxruntime": ort.__version__,
                      "forebay_ms": statistics.median(ours), "onnxruntime_ms": statistics.median(theirs),
                      "ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
