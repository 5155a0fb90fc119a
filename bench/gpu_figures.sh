#!/usr/bin/env bash
# Figures of a GPU machine for a model larger than the budget: link use at several budgets, the budget curve beside the limit and
# `estimate`, batch 64,
# a card that another process holds, the first pass from a cold disk. Prints one table; JSON files stay in FOLDER.
# gpu_figures.sh FOLDER [PARAMS] [STEP...]: PARAMS of `forebay synth llama` (default 24B: 47 GB of disk); steps: budgets batch held curve
# disk
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
forebay=${FOREBAY:-$here/build/release/tools/forebay}
folder=${1:?usage: gpu_figures.sh FOLDER [PARAMS] [STEP...]}
params=${2:-24B}
shift $(($# < 2 ? $# : 2))
[ $# -gt 0 ] || set -- budgets batch held curve disk
budgets=${BUDGETS:-4GB,8GB,16GB}
python=${PYTHON:-python3}
limit=${LIMIT:-900}
mkdir -p "$folder"
model=$folder/$params-bf16
log=$folder/gpu_figures.log
[ -s "$model/model.onnx" ] || "$forebay" synth llama --params "$params" --dtype bf16 --seed 1 -o "$model" >>"$log" 2>&1 || exit
plan=$folder/$params.plan
"$forebay" build "$model/model.onnx" -o "$plan" --strip >>"$log" 2>&1 || exit
bad=0

bench() {  # bench NAME OPTIONS...: FOLDER/NAME.json
  local name=$1
  shift
  timeout "$limit" "$forebay" bench "$plan" --weights "$model" --device cuda --seed 3 --warm-up 2 --quick "--json=$folder/$name.json" "$@" >>"$log" 2>&1 ||
    { echo "| $name | failed, see $log | |"; bad=1; return 1; }
}
rows() {  # rows NAME: the table's lines for one JSON file
  "$python" - "$folder/$1.json" "$1" <<'P'
import json, sys
bench = json.load(open(sys.argv[1], encoding="utf-8"))
link = bench["limits"]["link_gbps"]
for r in bench["rows"]:
    if r.get("refused"):
        print(f"| {sys.argv[2]}, {r['budget']} | refused: {r['refused']} | |")
        continue
    streamed, beside = r["streamed_bytes"]["link"], (r["arena"]["ring"] + r["arena"]["activations"]) / r["budget_bytes"]
    print(f"| {sys.argv[2]}, {r['budget']} | {r['pass_ms']['p50']:.1f} ms, {r['bound_by']}{', THROTTLED' if r['throttled'] else ''} | "
          f"{streamed / 1e9:.2f} GB a pass over the link, {100 * r['link_share']:.1f} % of {link:.2f} GB/s; ring and activations {100 * beside:.2f} % of the "
          f"budget; {r['host_cores']:.2f} host cores; peak over budget {max(0, r['peak_arena_bytes'] - r['budget_bytes'])} |")
    if "first_pass" in r and r["first_pass"]["disk_bytes"]:
        f = r["first_pass"]
        print(f"| first pass, cold | {f['ms']:.0f} ms | {f['disk_bytes'] / 1e9:.2f} GB from disk, {f['over_disk_limit']:.3f} of bytes over the disk limit |")
P
}

budgets() { bench budgets --direct on --shapes input_ids=1x1 --budget "$budgets" --iterations 4 && rows budgets; }
batch() { bench batch64 --shapes input_ids=64x1 --budget "${budgets##*,}" --iterations 4 && rows batch64; }
disk() { bench disk --shapes input_ids=1x1 --budget 25% --host-cache 0 --direct on --iterations 3 && rows disk; }

digest() {  # digest BUDGET: of the logits
  timeout "$limit" "$forebay" run "$plan" --weights "$model" --device cuda --seed 3 --shapes input_ids=1x1 --budget "$1" --iterations 3 \
    "--json=$folder/run.json" >>"$log" 2>&1 || return
  "$python" -c 'import json,sys
d = json.load(open(sys.argv[1]))
print("".join(o["sha256"] for o in d["outputs"].values()), d["pass_ms"][-1], d["streamed_bytes"]["link"], d["budget_bytes"])' "$folder/run.json"
}
# Another process holds all but 8 GB: the same bits, at most those bytes.
held() {
  local free=${HELD_FREE:-8GB} first second pid ready
  local fifo=$folder/hold.fifo
  rm -f "$fifo"
  mkfifo "$fifo"
  "$python" "$here/bench/peers/hold_memory.py" "$free" <"$fifo" >"$folder/hold.log" 2>&1 &
  pid=$!
  exec 9>"$fifo"
  for _ in $(seq 300); do grep -q ready "$folder/hold.log" 2>/dev/null && break; kill -0 $pid 2>/dev/null || break; sleep 0.1; done
  ready=$(cat "$folder/hold.log")
  first=$(digest "${HELD_BUDGET:-6GB}")
  exec 9>&-
  wait $pid
  rm -f "$fifo"
  second=$(digest "${HELD_BUDGET_FREE:-${budgets##*,}}")
  if [ -n "$first" ] && [ "${first%% *}" = "${second%% *}" ]; then
    echo "| card held ($ready) | the same bits as at ${budgets##*,} with the card free | digest, last pass ms, link bytes, budget: ${first:0:16} ${first#* } |"
  else
    echo "| card held ($ready) | FAILED: $first beside $second | |"
    bad=1
  fi
}
# Ten points beside the straight line (streamed bytes over the copy rate of the run) and what `estimate` says.
curve() {
  local ten=10%,20%,30%,40%,50%,60%,70%,80%,90%,100%
  bench curve --shapes input_ids=1x1 --budget $ten --iterations 4 || return
  "$forebay" estimate "$plan" --device cuda --shapes input_ids=1x1 --budget $ten "--json=$folder/estimate.json" >>"$log" 2>&1 || return
  "$python" - "$folder/curve.json" "$folder/estimate.json" <<'P'
import json, sys
bench, estimate = (json.load(open(p, encoding="utf-8")) for p in sys.argv[1:3])
for r, e in zip(bench["rows"], estimate["rows"]):
    if r.get("refused") or e.get("refused"):
        print(f"| curve, {r['budget']} | refused | |")
        continue
    ms, line = r["pass_ms"]["p50"], r["streamed_bytes"]["link"] / bench["limits"]["link_gbps"] / 1e6
    print(f"| curve, {r['budget']} | {ms:.1f} ms | " + (f"over the straight line {ms / line:.3f}; " if line else "") + f"over `estimate` {ms / e['predicted_ms']:.3f} |")
P
}

echo "| figure | seen | detail |"
echo "|---|---|---|"
for step in "$@"; do "$step"; done
exit $bad
