#!/usr/bin/env python3
"""Lines of gpu_figures.sh's table from its JSON files.

gpu_rows.py NAME BENCH.json | --bound BENCH ESTIMATE | --curve BENCH ESTIMATE | --held HELD FREE ESTIMATE BENCH TEXT | --peers PEERS EQUAL
"""

import json
import statistics
import sys


def load(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def pass_row(name, row, limits):
    streamed, arena, budget = row["streamed_bytes"]["link"], row["arena"], row["budget_bytes"]
    buffers = arena["ring"] + arena["activations"]
    beside = row.get("device_bytes_beside")
    detail = [
        f"least {row['pass_ms']['min']:.2f}",
        f"{streamed / 1e9:.2f} GB over the link, {100 * row['link_share']:.1f} % of {limits['link_gbps']:.2f} GB/s",
        f"ring and activations {100 * buffers / budget:.2f} % of {budget / 1e9:.2f} GB",
        f"{row['host_cores']:.2f} host cores",
        f"peak over budget {max(0, row['peak_arena_bytes'] - budget)}",
    ]
    if row["streamed_bytes"]["disk"] > 0:
        readings = ", ".join(f"{r:.2f}" for r in row["disk_limit"]["readings"])
        gigabytes = row["streamed_bytes"]["disk"] / 1e9
        detail.insert(1, f"{gigabytes:.2f} GB from disk, {100 * row['disk_share']:.1f} % of {row['disk_limit_gbps']:.2f} GB/s (readings {readings})")
    if beside is not None:
        tables = row.get("host_cache_page_tables", 0) / 2**20
        beyond = row.get("device_bytes_beyond_budget", beside) / 2**20
        detail.append(f"{beside / 2**20:.0f} MiB beside the arena ({tables:.0f} of them page tables of the host cache), {beyond:.0f} beyond the budget")
    print(f"| {name}, {row['budget']} | {row['pass_ms']['p50']:.2f} ms, {row['bound_by']}{throttled(row)} | {'; '.join(detail)} |")
    first = row.get("first_pass", {})
    if first.get("disk_bytes"):
        load = (first.get("load") or {}).get("gbps") or 0
        detail = [f"{first['disk_bytes'] / 1e9:.2f} GB from files, loaded at {load:.2f} GB/s"]
        if row["io"]["page_cache_bytes"] == 0 and first["disk_limit"]["median"] > 0:
            disk = first["disk_limit"]["median"]
            detail.append(f"{first['over_disk_limit']:.3f} of bytes over the disk's {disk:.2f} GB/s, loaded at {100 * load / disk:.1f} % of it")
        print(f"| {name}, first pass | {first['ms']:.0f} ms | {'; '.join(detail)} |")


def throttled(row):
    return ", THROTTLED" if row["throttled"] else ""


def generation_row(name, row):
    prompt = row["prefill"]
    seen = f"{prompt['pass_ms']['p50']:.2f} ms"
    detail = [
        f"batch {row['batch']}, prompt of {row['prompt_tokens']}: {seen}, {prompt['tokens_per_second']:.0f} tokens/s",
        f"first token {row['first_token_ms']['p50']:.2f} ms",
        f"states {row['state_bytes'] / 1e6:.0f} MB inside the budget",
        f"peak over budget {max(0, row['peak_arena_bytes'] - row['budget_bytes'])}",
    ]
    if "decode" in row:
        token = row["decode"]
        seen = f"{token['pass_ms']['p50']:.2f} ms a token (least {token['pass_ms']['min']:.2f}), {token['bound_by']}"
        detail.append(f"{token['streamed_bytes']['link'] / 1e9:.2f} GB a token over the link")
    print(f"| {name}, {row['budget']} | {seen}{throttled(row)} | {'; '.join(detail)} |")


def bench(name, path):
    out = load(path)
    for row in out["rows"]:
        if row.get("refused"):
            print(f"| {name}, {row['budget']} | refused: {row['refused']} | |")
        elif "prefill" in row:
            generation_row(name, row)
        else:
            pass_row(name, row, out["limits"])


def bound(bench_path, estimate_path):
    out, estimate = load(bench_path), load(estimate_path)
    row, link = out["rows"][0], out["limits"]["link_gbps"]
    if row.get("refused"):
        return
    seen, compute = row["decode"]["pass_ms"]["p50"], estimate["rates"]["resident_ms"]
    gigabytes = row["decode"]["streamed_bytes"]["link"] / 1e9
    over_link = 1e3 * gigabytes / link
    print(
        f"| batch {row['batch']}: bound over seen | {100 * max(over_link, compute) / seen:.1f} % | max({gigabytes:.2f} GB over {link:.2f} GB/s = "
        f"{over_link:.1f} ms, kernels alone {compute:.1f} ms) |"
    )


def curve(bench_path, estimate_path):
    out, estimate = load(bench_path), load(estimate_path)
    for row, predicted in zip(out["rows"], estimate["rows"]):
        if row.get("refused") or predicted.get("refused"):
            print(f"| curve, {row['budget']} | refused | |")
            continue
        ms, line = row["pass_ms"]["p50"], row["streamed_bytes"]["link"] / out["limits"]["link_gbps"] / 1e6
        straight = f"over the straight line {ms / line:.3f}; " if line else ""
        print(f"| curve, {row['budget']} | {ms:.1f} ms | {straight}over `estimate` {ms / predicted['predicted_ms']:.3f} |")


def held(held_path, free_path, estimate_path, bench_path, text):
    tight, free = load(held_path), load(free_path)
    same = [o["sha256"] for o in tight["outputs"].values()] == [o["sha256"] for o in free["outputs"].values()]
    row = load(estimate_path)["rows"][0]
    ms = statistics.median(tight["pass_ms"][-4:])
    rate = row["streamed_bytes"] / ms / 1e6
    try:
        link = load(bench_path)["limits"]["link_gbps"]
        share = f", {100 * rate / link:.1f} % of {link:.2f}"
    except OSError:
        share = ""  # without the step `budgets` there is no copy rate
    budgets = f"budget {tight['budget_bytes'] / 1e9:.2f} GB beside {free['budget_bytes'] / 1e9:.2f} GB with the card free"
    speed = f"{ms:.1f} ms a pass, {row['streamed_bytes'] / 1e9:.2f} GB streamed: {rate:.2f} GB/s{share}"
    print(f"| card held ({text}) | {'the same bits' if same else 'OTHER BITS: FAILED'} | {budgets}; {speed} |")
    return 0 if same else 1


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.startswith("{")]


def peers(peers_path, equal_path):
    ours = {row["beside"]: row for row in lines(equal_path)}
    for peer in lines(peers_path):
        if "ms_per_token" not in peer:
            print(f"| {peer['peer']} | {json.dumps(peer)} | |")
            continue
        print(f"| {peer['peer']} | {peer['ms_per_token']:.2f} ms a token | peak {peer['peak_device_bytes'] / 1e9:.2f} GB |")
        row = ours.get(peer["peer"], {"no_figure": "not run"})
        if "ms_per_token" not in row:
            print(f"| forebay there | {row.get('refused') or row.get('no_figure')} | |")
            continue
        prompt = ""
        if "prefill_ms" in row:
            prompt = (
                f"; prompt {row['prefill_ms']:.1f} ms beside {row['peer_prefill_ms']:.1f}: {row['prefill_times_faster']:.2f}x; "
                f"a token behind it {row['ms_per_token_behind_prompt']:.2f} ms: {row['times_faster_behind_prompt']:.2f}x"
            )
        memory = f"peak {row['peak_device_bytes'] / 1e9:.2f} GB, {row['beside_arena_bytes'] / 1e9:.2f} beside the arena"
        print(f"| forebay there{throttled(row)} | {row['ms_per_token']:.2f} ms: {row['times_faster']:.2f}x | {memory}{prompt} |")


def main():
    kinds = {"--bound": bound, "--curve": curve, "--held": held, "--peers": peers}
    if sys.argv[1] in kinds:
        return kinds[sys.argv[1]](*sys.argv[2:])
    return bench(*sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
