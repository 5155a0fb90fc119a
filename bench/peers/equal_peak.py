#!/usr/bin/env python3
"""forebay at the device memory that a peer was seen to use. equal_peak.py --plan PLAN --weights SRC --peers FILE.jsonl [--forebay BINARY]
[--only NAME...]

FILE holds a line of JSON a peer (run.sh writes it): peer, ms_per_token, peak_device_bytes as the driver showed it, CUDA context included.
forebay's
budget is that peak less what forebay itself holds beside its arena; its own peak is measured the same way and must not be above the peer's.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def bench(args, budget, folder):
    report, peak = os.path.join(folder, "bench.json"), os.path.join(folder, "peak.json")
    subprocess.run(
        [
            sys.executable,
            os.path.join(HERE, "peak_memory.py"),
            "--json",
            peak,
            "--",
            args.forebay,
            "bench",
            args.plan,
            "--weights",
            args.weights,
            "--device",
            "cuda",
            "--budget",
            str(budget),
            "--shapes",
            "input_ids=1x1",
            "--iterations",
            str(args.passes),
            "--warm-up",
            "2",
            "--quick",
            "--direct",
            "off",
            f"--json={report}",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return json.load(open(report, encoding="utf-8")), json.load(open(peak, encoding="utf-8"))["peak_device_bytes"]


def prefill(args, budget, tokens, folder):
    """Milliseconds of a prompt of `tokens` at this budget."""
    report = os.path.join(folder, "prefill.json")
    subprocess.run(
        [
            args.forebay,
            "bench",
            args.plan,
            "--weights",
            args.weights,
            "--device",
            "cuda",
            "--budget",
            str(budget),
            "--prompt",
            str(tokens),
            "--iterations",
            "3",
            "--quick",
            "--direct",
            "off",
            f"--json={report}",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    row = json.load(open(report, encoding="utf-8"))["rows"][0]
    return None if row.get("refused") else row["prefill"]["pass_ms"]["p50"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--forebay", default=os.path.join(HERE, "../../build/release/tools/forebay"))
    parser.add_argument("--plan", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--peers", required=True)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--passes", type=int, default=5)
    args = parser.parse_args()
    beside = 560 << 20  # device memory beside the arena, the context included: a guess, replaced by what is seen
    with tempfile.TemporaryDirectory() as folder:
        for line in open(args.peers, encoding="utf-8"):
            peer = json.loads(line)
            if "ms_per_token" not in peer or not peer.get("peak_device_bytes") or (args.only and peer["peer"] not in args.only):
                continue
            for _ in range(4):
                budget = peer["peak_device_bytes"] - beside
                report, peak = bench(args, budget, folder)
                row = report["rows"][0]
                if row.get("refused"):
                    break
                beside = peak - row["peak_arena_bytes"] + (8 << 20)
                left = peer["peak_device_bytes"] - peak
                if 0 <= left <= 64 << 20 or (
                    left > 0 and row["peak_arena_bytes"] + (64 << 20) < row["budget_bytes"]
                ):  # the second: the model is in whole
                    break
            if row.get("refused"):
                print(json.dumps({"beside": peer["peer"], "refused": row["refused"]}), flush=True)
                continue
            if peak > peer["peak_device_bytes"]:
                print(
                    json.dumps(
                        {"beside": peer["peer"], "no_figure": f"the peak {peak} stays above the peer's {peer['peak_device_bytes']}"}
                    ),
                    flush=True,
                )
                continue
            ours = row["pass_ms"]["p50"]
            prompt = {}
            if peer.get("prefill_ms"):
                prompt_ms = prefill(args, budget, peer["prefill_tokens"], folder)
                prompt = {
                    "prefill_ms": prompt_ms,
                    "peer_prefill_ms": peer["prefill_ms"],
                    "prefill_times_faster": prompt_ms and peer["prefill_ms"] / prompt_ms,
                }
            print(
                json.dumps(
                    {
                        "beside": peer["peer"],
                        "budget_bytes": budget,
                        "peak_device_bytes": peak,
                        "peer_peak_device_bytes": peer["peak_device_bytes"],
                        "beside_arena_bytes": peak - row["peak_arena_bytes"],
                        "ms_per_token": ours,
                        "peer_ms_per_token": peer["ms_per_token"],
                        "times_faster": peer["ms_per_token"] / ours,
                        "link_share": row["link_share"],
                        "link_limit_gbps": report["limits"]["link_gbps"],
                        **prompt,
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
