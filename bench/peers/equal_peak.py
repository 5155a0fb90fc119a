#!/usr/bin/env python3
"""forebay at the device memory that a peer was seen to use. equal_peak.py --plan PLAN --weights SRC --peers FILE.jsonl [--forebay BINARY]
[--only NAME...]

FILE holds a line of JSON a peer (run.sh writes it): peer, ms_per_token, peak_device_bytes as the driver showed it, CUDA context included.
forebay's budget is that peak less what forebay itself holds beside its arena; its own peak is measured the same way and must not be above
the peer's. A peer whose weights come from the disk (from_disk) is met from the disk: no host cache, O_DIRECT. One that measured a prompt
(prefill_ms) is met with the same prompt and 32 tokens behind it, at that budget.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def bench(args, name, peer, budget, folder):
    """One `forebay bench` under peak_memory.py: its only row, the limits of the run, the peak that the driver showed."""
    report, peak = os.path.join(folder, "bench.json"), os.path.join(folder, "peak.json")
    if name == "decode":
        what = ["--shapes", "input_ids=1x1", "--iterations", str(args.passes), "--warm-up", str(1 if peer.get("from_disk") else args.warm_up)]
    else:
        what = ["--prompt", str(peer["prefill_tokens"]), "--decode", "32", "--iterations", "2"]
    source = ["--direct", "on", "--host-cache", "0"] if peer.get("from_disk") else ["--direct", "off"]
    command = [args.forebay, "bench", args.plan, "--weights", args.weights, "--device", args.device, "--budget", str(budget)]
    command += what + source + ["--quick", f"--json={report}"]
    measured = [sys.executable, os.path.join(HERE, "peak_memory.py"), "--json", peak, "--", *command]
    done = subprocess.run(measured, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    with open(report, encoding="utf-8") as file:
        out = json.load(file)
    with open(peak, encoding="utf-8") as file:
        return out["rows"][0], out["limits"], json.load(file)["peak_device_bytes"]


def fits(row, left):
    """Near enough to the peer's peak; or the whole model is in, and more memory would not be used."""
    return 0 <= left <= 64 << 20 or (left > 0 and row["peak_arena_bytes"] + (64 << 20) < row["budget_bytes"])


def meet(args, peer, beside, folder):
    """forebay beside one peer: what to print, and what forebay held beside its arena."""
    wanted = peer["peak_device_bytes"]
    for _ in range(4):
        budget = wanted - beside
        row, limits, peak = bench(args, "decode", peer, budget, folder)
        if row.get("refused"):
            return {"beside": peer["peer"], "refused": row["refused"]}, beside
        seen = peak - row["peak_arena_bytes"]
        beside = seen + (8 << 20)
        if fits(row, wanted - peak):
            break
    if peak > wanted:
        return {"beside": peer["peer"], "no_figure": f"the peak {peak} stays above the peer's {wanted}"}, beside
    ours = row["pass_ms"]["p50"]
    out = {
        "beside": peer["peer"],
        "budget_bytes": budget,
        "peak_device_bytes": peak,
        "peer_peak_device_bytes": wanted,
        "beside_arena_bytes": seen,
        "ms_per_token": ours,
        "peer_ms_per_token": peer["ms_per_token"],
        "times_faster": peer["ms_per_token"] / ours,
        "host_cores": row["host_cores"],
        "throttled": row["throttled"],
    }
    tier = "disk" if peer.get("from_disk") else "link"
    out[f"{tier}_share"] = row[f"{tier}_share"]
    out[f"{tier}_limit_gbps"] = row["disk_limit_gbps"] if tier == "disk" else limits["link_gbps"]
    if peer.get("prefill_ms"):
        row, _, peak = bench(args, "prompt", peer, budget, folder)
        if row.get("refused"):
            out["prompt_refused"] = row["refused"]
        else:
            prompt, token = row["prefill"]["pass_ms"]["p50"], row["decode"]["pass_ms"]["p50"]
            out |= {"prefill_ms": prompt, "peer_prefill_ms": peer["prefill_ms"], "prefill_times_faster": peer["prefill_ms"] / prompt}
            out |= {"ms_per_token_behind_prompt": token, "times_faster_behind_prompt": peer["ms_per_token"] / token}
            out["prompt_peak_device_bytes"] = peak
    return out, beside


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--forebay", default=os.path.join(HERE, "../../build/release/tools/forebay"))
    parser.add_argument("--plan", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--peers", required=True)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=12, help="enough to fill the host cache, which passes beside it feel")
    parser.add_argument("--beside", type=int, default=560 << 20, help="bytes beside the arena to begin with; replaced by what is seen")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    beside = args.beside
    with tempfile.TemporaryDirectory() as folder, open(args.peers, encoding="utf-8") as peers:
        for line in peers:
            peer = json.loads(line)
            if "ms_per_token" not in peer or not peer.get("peak_device_bytes") or (args.only and peer["peer"] not in args.only):
                continue
            out, beside = meet(args, peer, beside, folder)
            print(json.dumps(out), flush=True)


if __name__ == "__main__":
    main()
