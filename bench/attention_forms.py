#!/usr/bin/env python3
"""The same attention block in every form that torch.onnx writes, at one size: pass times beside the fastest form's.

  attention_forms.py [--forebay build/release/tools/forebay] [--threads 2] [--length 256] [--rounds 11] [--slab 1MiB] [--cpu]

Slabs are by default those of a model of 256 MB: one block alone would be cut into 64 KiB, the forms' matrices differently. Needs PyTorch as tests/models/fixtures/requirements.txt says. The forms take turns in each round; medians. Exit 1 where one is more than 5 % slower.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../tests/models/fixtures"))
import torch  # noqa: E402

import export_families  # noqa: E402
import language_families as families  # noqa: E402
from family_case import Case  # noqa: E402

FORMS = [("module", "ts14"), ("module", "dy18"), ("sdpa", "ts14"), ("sdpa", "dy18"), ("sdpa", "dy23"), ("eager", "ts17"), ("eager", "dy18")]


def export(form, exporter, length, path):
    torch.manual_seed(7)
    module = families.Attention(form).eval()
    axes = {} if form == "module" else {"x": {0: "batch", 1: "sequence"}}  # traced with its batch and length as constants
    case = Case(module, (torch.randn(2, length, families.HIDDEN),), ["x"], ["y"], [], axes, torch.float32)
    model = export_families.export(case, exporter)
    with open(path, "wb") as file:
        file.write(model.SerializeToString())


def bench(args, plan, passes):
    command = [args.forebay, "bench", plan, "--budget", "unlimited", "--threads", str(args.threads), "--iterations", str(passes),
               "--shapes", f"x=2x{args.length}x{families.HIDDEN}", "--quick", "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def pass_wall(args, plan):
    return bench(args, plan, args.passes)["rows"][0]["pass_ms"]["min"]


def pass_cpu(args, plan):
    """Processor time of a pass: what a run of more passes takes beyond one of few."""

    def spent(passes):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        bench(args, plan, passes)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return (spent(args.passes + 2) - spent(2)) * 1e3 / args.passes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forebay", default=os.path.join(HERE, "../build/release/tools/forebay"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--passes", type=int, default=20)
    parser.add_argument("--slab", default="1MiB", help="8MiB: that of models above 2 GB")
    parser.add_argument("--cpu", action="store_true", help="processor time of one thread in place of wall time: for machines that others load")
    args = parser.parse_args()
    if args.cpu:
        args.threads = 1
    families.HIDDEN, families.HEADS, families.HEAD = 512, 8, 64
    torch.backends.mha.set_fastpath_enabled(False)
    times = {}
    with tempfile.TemporaryDirectory() as folder:
        plans = {}
        for form, exporter in FORMS:
            name = f"{form}_{exporter}"
            model = os.path.join(folder, name + ".onnx")
            export(form, exporter, args.length, model)
            plans[name] = os.path.join(folder, name + ".plan")
            subprocess.run([args.forebay, "build", model, "-o", plans[name], "--slab", args.slab], check=True, stdout=subprocess.DEVNULL)
        for _ in range(args.rounds):
            for name, plan in plans.items():
                times.setdefault(name, []).append(pass_cpu(args, plan) if args.cpu else pass_wall(args, plan))
    medians = {name: statistics.median(values) for name, values in times.items()}
    best = min(medians.values())
    for name, value in medians.items():
        print(f"{name:16} {value:8.3f} ms  {value / best:.3f}")
    return 0 if max(medians.values()) <= 1.05 * best else 1


if __name__ == "__main__":
    sys.exit(main())
