#!/usr/bin/env bash
# Measures the figures of bench/README.md. figures.sh FOLDER [SMALL|FULL]
# FOLDER needs about 16 GB for FULL (a 4 GB and an 8 GB model, with plans and shards made one at a time), 3 GB for SMALL.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
forebay=${FOREBAY:-$here/build/release/tools/forebay}
folder=${1:?usage: figures.sh FOLDER [SMALL|FULL]}
size=${2:-FULL}
pairs=${PAIRS:-11}
case $size in
  FULL) stream_params=2B rss_params=4B ;;
  SMALL) stream_params=500M rss_params=500M ;;
  *) echo "SMALL or FULL" >&2; exit 2 ;;
esac
mkdir -p "$folder"
results=$folder/figures.json
log=$folder/figures.log
: > "$log"

# field FILE PATH: a value of a JSON file, by keys and indices.
field() { python3 -c 'import json,sys
v=json.load(open(sys.argv[1]))
for k in sys.argv[2].split("."): v=v[int(k)] if isinstance(v,list) else v[k]
print(v)' "$1" "$2"; }
# spread NAME GOAL VALUES...: median and spread of a list, and the goal.
spread() { python3 -c 'import sys,statistics as s
n,g,*v=sys.argv[1:]; v=sorted(map(float,v))
print(f"| {n} | {g} | {s.median(v):.4g} | {v[0]:.4g} to {v[-1]:.4g} of {len(v)} |")' "$@"; }
# rss WHAT COMMAND...: peak resident bytes as the kernel counts them, beside the verb's own.
rss() {
  local what=$1
  shift
  local start end
  start=$(date +%s.%N)
  "$@" --json > "$folder/rss.json"
  end=$(date +%s.%N)
  python3 -c 'import json,sys
rss=json.load(open(sys.argv[1]))["peak_rss_bytes"]/2**20
print("| RSS of %s | %s | %.0f MiB | %.1f s |" % (sys.argv[2], sys.argv[3], rss, float(sys.argv[5])-float(sys.argv[4])))' \
    "$folder/rss.json" "$what" "$limit" "$start" "$end" | tee -a "$log"
}

echo "| figure | goal | measured | spread |" | tee -a "$log"
echo "|---|---|---|---|" | tee -a "$log"

# 1. Streaming beside the bare io_uring read of the same files: pairs in one run each, the disk measured before and after each row.
model=$folder/stream
[ -f "$model/model.onnx" ] || "$forebay" synth llama --params $stream_params --dtype bf16 --seed 1 -o "$model" >&2
"$forebay" build "$model/model.onnx" -o "$folder/stream.plan" --strip >&2
bench() { "$forebay" bench "$folder/stream.plan" --weights "$model/model.onnx" --iterations "$@" --json > "$folder/bench.json"; }
shares=() uring=() ratio=()
for _ in $(seq "$pairs"); do
  bench 3 --budget 10% --io uring --host-cache 0
  shares+=("$(field "$folder/bench.json" rows.0.disk_share)")
  fast=$(field "$folder/bench.json" rows.0.pass_ms.p50)
  bench 3 --budget 10% --io threads --host-cache 0
  slow=$(field "$folder/bench.json" rows.0.pass_ms.p50)
  uring+=("$(python3 -c "print($slow/$fast)")")
done
spread "streamed bytes per second over the raw O_DIRECT read, 10 %" ">= 0.95" "${shares[@]}" | tee -a "$log"
spread "io_uring over threads" ">= 1.1" "${uring[@]}" | tee -a "$log"

# 2. 100 % of the budget beside a run that never streamed (unlimited: the same bytes, without a cap).
for _ in $(seq "$pairs"); do
  bench 5 --budget 100%,unlimited --quick
  ratio+=("$(python3 -c "print($(field "$folder/bench.json" rows.0.pass_ms.p50)/$(field "$folder/bench.json" rows.1.pass_ms.p50))")")
done
spread "pass time at 100 % over never streamed" "<= 1.02" "${ratio[@]}" | tee -a "$log"
peak=$(python3 -c 'import json,sys
print(max(0, max(r["peak_arena_bytes"]-r["budget_bytes"] for r in json.load(open(sys.argv[1]))["rows"])))' "$folder/bench.json")
echo "| arena peak above budget | 0 | $peak | |" | tee -a "$log"
"$forebay" bench "$folder/stream.plan" --weights "$model/model.onnx" --budget 5%,10%,25%,50%,75%,100% --iterations 5 --json > "$folder/curve.json"
cp "$folder/curve.json" "$results"
rm -rf "$model" "$folder/stream.plan"

# 3. Host memory of the tools on a large model.
big=$folder/big
limit="<= 1024 MiB" rss synth "$forebay" synth llama --params $rss_params --dtype bf16 --seed 2 -o "$big"
limit="<= 512 MiB" rss "build --strip" "$forebay" build "$big/model.onnx" -o "$folder/big.plan" --strip
echo "| stripped plan | <= 1 MiB | $(stat -c %s "$folder/big.plan") bytes | |" | tee -a "$log"
limit="<= 512 MiB" rss build "$forebay" build "$big/model.onnx" -o "$folder/whole.plan"
rm -f "$folder/whole.plan"
limit="<= 1024 MiB" rss pack "$forebay" pack "$folder/big.plan" --weights "$big/model.onnx" -o "$folder/shards"
rm -rf "$folder/shards"
limit="<= 1024 MiB" rss refit "$forebay" refit "$folder/big.plan" --weights "$big/model.safetensors.index.json" -o "$folder/refitted.plan"
rm -rf "$folder/refitted.plan" "$folder/big.plan" "$big"
echo "figures in $log, the budget curve in $results" >&2
