#!/usr/bin/env python3
"""llama.cpp's own llama-bench as one line of JSON: prefill of 512 and decode. llama_bench.py LLAMA-BENCH MODEL.gguf LAYERS-ON-THE-GPU"""

import json
import os
import subprocess
import sys

binary, model, layers = sys.argv[1:4]
threads = str(min(16, os.cpu_count() or 16))
rows = json.loads(
    subprocess.run(
        [binary, "-m", model, "-ngl", layers, "-p", "512", "-n", "32", "-r", "3", "-t", threads, "-o", "json"],
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
)
out = {"peer": "llama.cpp_" + ("all" if int(layers) > 33 else layers), "threads": int(threads), "build": rows[0].get("build_commit")}
for row in rows:
    if row["n_gen"]:
        out["ms_per_token"] = row["avg_ns"] / row["n_gen"] / 1e6
    else:
        out["prefill_tokens"], out["prefill_ms"], out["prefill_tokens_per_second"] = row["n_prompt"], row["avg_ns"] / 1e6, row["avg_ts"]
print(json.dumps(out))
