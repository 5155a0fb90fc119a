#!/usr/bin/env bash
# Figures of a GPU machine for one decoder: fully resident decode and prompts, link use at several budgets, the budget curve beside the limit
# and `estimate`, batch 64, a card that another process holds, passes from the disk, the peers. Prints one table; JSON files stay in FOLDER.
# gpu_figures.sh FOLDER [PARAMS] [STEP...]
#   PARAMS: of `forebay synth llama` (default 24B: 47 GB of disk)
#   steps: resident prefill budgets batch held curve disk peers (default: budgets batch held curve disk)
# Environment: BUDGETS (4GiB,8GiB,16GiB), BATCH_BUDGET (16GB), HELD_FREE (8GB), HELD_BUDGET (6GB), PEERS (names of peers/run.sh), LIMIT (seconds a
# command), FOREBAY, PYTHON, DEVICE.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
forebay=${FOREBAY:-$here/build/release/tools/forebay}
folder=${1:?usage: gpu_figures.sh FOLDER [PARAMS] [STEP...]}
params=${2:-24B}
shift $(($# < 2 ? $# : 2))
[ $# -gt 0 ] || set -- budgets batch held curve disk
budgets=${BUDGETS:-4GiB,8GiB,16GiB}
python=${PYTHON:-python3}
limit=${LIMIT:-900}
device=${DEVICE:-cuda}
mkdir -p "$folder"
model=${MODEL:-$folder/$params-bf16}
plan=$folder/$params.plan
log=$folder/gpu_figures.log
bad=0

failed() {
  echo "| $1 | FAILED | $(tail -8 "$log" | grep -m1 '^forebay: ' | cut -c1-160) (see $log) |"
  bad=1
  return 1
}
bench() {  # bench NAME OPTIONS...: FOLDER/NAME.json, and its rows. Weights come from the page cache as far as it has them, or past it (direct=on).
  local name=$1 how=(--quick --direct off)
  [ "${direct:-off}" = off ] || how=(--direct on)  # the disk's own readings as long as a pass
  shift
  rm -f "$folder/$name.json"
  timeout "$limit" "$forebay" bench "$plan" --weights "$model" --device "$device" --seed 3 "${how[@]}" "--json=$folder/$name.json" "$@" \
    >>"$log" 2>&1 || { failed "$name"; return; }
  "$python" "$here/bench/gpu_rows.py" "$name" "$folder/$name.json"
}
estimate() {  # estimate NAME OPTIONS...: FOLDER/NAME.json
  local name=$1
  shift
  timeout "$limit" "$forebay" estimate "$plan" --device "$device" "--json=$folder/$name.json" "$@" >>"$log" 2>&1 || failed "estimate for $name"
}

resident() {
  bench resident --shapes input_ids=1x1 --budget 100% --iterations 40 --warm-up 5
  bench generation --budget 100% --prompt 512 --decode 32
}
prefill() { bench prefill --budget 100%,50% --prompt 8192 --iterations 2; }
# Passes beside a host cache that is still filling are slower: enough of them warm up.
budgets() { bench budgets --shapes input_ids=1x1 --budget "$budgets" --iterations 5 --warm-up 12; }
# The bound: the larger of what streams in a pass over the copy rate, and a pass of the same kernels with nothing to stream. The cache lies
# inside the budget; what streams is counted.
batch() {
  bench batch64 --shapes input_ids=64x1 --budget "${BATCH_BUDGET:-16GB}" --prompt 16 --decode 6 --iterations 1 || return
  estimate batch64-bound --shapes input_ids=64x1 --budget "${BATCH_BUDGET:-16GB}" || return
  "$python" "$here/bench/gpu_rows.py" --bound "$folder/batch64.json" "$folder/batch64-bound.json"
}
# What was written a moment ago is on the disk before it is read from there.
disk() {
  sync "$model"/* 2>/dev/null
  direct=on bench disk --shapes input_ids=1x1 --budget 25% --host-cache 0 --iterations 3
  direct=on bench cold --shapes input_ids=1x1 --budget 100% --host-cache 0 --iterations 3
}
# Ten points beside the straight line (streamed bytes over the copy rate of the run) and what `estimate` says.
curve() {
  local ten=10%,20%,30%,40%,50%,60%,70%,80%,90%,100%
  bench curve --shapes input_ids=1x1 --budget $ten --iterations 5 --warm-up 8 || return
  estimate estimate --shapes input_ids=1x1 --budget $ten || return
  "$python" "$here/bench/gpu_rows.py" --curve "$folder/curve.json" "$folder/estimate.json"
}
passes() {  # passes NAME BUDGET: FOLDER/NAME.json, with the digest of the logits
  timeout "$limit" "$forebay" run "$plan" --weights "$model" --device "$device" --seed 3 --shapes input_ids=1x1 --budget "$2" --iterations 8 \
    --direct off "--json=$folder/$1.json" >>"$log" 2>&1
}
# Another process holds all of the card but HELD_FREE: the same bits as with the card free, at the speed of the link.
held() {
  local pid fifo=$folder/hold.fifo budget=${HELD_BUDGET:-6GB} done=0
  estimate held-estimate --quick --shapes input_ids=1x1 --budget "$budget" || return
  rm -f "$fifo"
  mkfifo "$fifo"
  "$python" "$here/bench/peers/hold_memory.py" "${HELD_FREE:-8GB}" <"$fifo" >"$folder/hold.log" 2>&1 &
  pid=$!
  exec 9>"$fifo"
  for _ in $(seq 300); do grep -q ready "$folder/hold.log" 2>/dev/null && break; kill -0 $pid 2>/dev/null || break; sleep 0.1; done
  grep -q ready "$folder/hold.log" && passes held "$budget" && done=1
  exec 9>&-
  wait $pid
  rm -f "$fifo"
  [ $done = 1 ] || { failed "card held ($(tail -1 "$folder/hold.log"))"; return; }
  passes free "${budgets##*,}" || { failed "card free again"; return; }
  "$python" "$here/bench/gpu_rows.py" --held "$folder/held.json" "$folder/free.json" "$folder/held-estimate.json" "$folder/budgets.json" \
    "$(cat "$folder/hold.log")" || bad=1
}
# Each peer, then forebay at its peak. PEERS: which of them.
peers() {
  rm -f "$folder/peers.jsonl"
  # shellcheck disable=SC2086
  PYTHON=$python LIMIT=$limit "$here/bench/peers/run.sh" "$model" "$folder/peers.jsonl" ${PEERS:-} >>"$log" 2>&1 || bad=1
  [ -s "$folder/peers.jsonl" ] || { failed peers; return; }
  "$python" "$here/bench/peers/equal_peak.py" --forebay "$forebay" --device "$device" --plan "$plan" --weights "$model" \
    --peers "$folder/peers.jsonl" >"$folder/equal.jsonl" 2>>"$log" || failed "forebay at the peers' peaks"
  "$python" "$here/bench/gpu_rows.py" --peers "$folder/peers.jsonl" "$folder/equal.jsonl"
}

echo "| figure | seen | detail |"
echo "|---|---|---|"
if [ ! -s "$model/model.onnx" ]; then
  timeout "$limit" "$forebay" synth llama --params "$params" --dtype bf16 --seed 1 -o "$model" >>"$log" 2>&1 || { failed "synth $params"; exit 1; }
fi
timeout "$limit" "$forebay" build "$model/model.onnx" -o "$plan" --strip >>"$log" 2>&1 || { failed "build $params"; exit 1; }
for step in "$@"; do
  case $step in
    resident | prefill | budgets | batch | held | curve | disk | peers) "$step" ;;
    *) echo "unknown step $step" >&2; exit 2 ;;
  esac
done
exit $bad
