#!/bin/bash
# One command for a GPU machine: tests, then benches, one short table last. Builds nothing: takes the folder of a build (default build/release).
#   tools/gpu_check.sh [--build DIR] [--work DIR] [--params 8B] [--quick | --curve] [--log FILE] [--onnx-data DIR]
set -u
build=build/release work=${TMPDIR:-/tmp}/forebay-gpu params=8B quick=0 curve=0 log= data=
while [ $# -gt 0 ]; do
  case $1 in
    --build) build=$2; shift 2 ;;
    --work) work=$2; shift 2 ;;
    --params) params=$2; shift 2 ;;
    --log) log=$2; shift 2 ;;
    --onnx-data) data=$2; shift 2 ;;  # onnx/backend/test/data of the onnx package
    --quick) quick=1; shift ;;  # tests and small models alone
    --curve) curve=1; shift ;;  # the budget curve alone
    *) echo "unknown option $1" >&2; exit 2 ;;
  esac
done
build=$(cd "$build" && pwd) || exit 2
mkdir -p "$work" || exit 2
log=${log:-$work/gpu_check.log}
: >"$log"
forebay=$build/tools/forebay
export FOREBAY_CUDA_LIBRARY=$build/src/runtime/cuda/libforebay_cuda.so
table=()
bad=0
row() { table+=("$(printf '%-34s %s' "$1" "$2")"); }
step() {  # step NAME COMMAND...: one row, ok or FAILED
  local name=$1 begin=$SECONDS
  shift
  echo "== $name: $*" >>"$log"
  if "$@" >>"$log" 2>&1; then row "$name" "ok ($((SECONDS - begin)) s)"; else row "$name" "FAILED (see $log)"; bad=1; fi
}
json() { python3 -c 'import json,sys; d=json.load(open(sys.argv[1])); print(eval(sys.argv[2], {"d": d}))' "$1" "$2" 2>>"$log"; }

row machine "$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -1)"
for test in runtime/device_test $(cd "$build/tests" && ls -- */cuda_*_test 2>/dev/null); do
  [ $curve = 1 ] && break
  [ -x "$build/tests/$test" ] && step "${test#*/}" "$build/tests/$test"
done

# The same bits at every budget, in runs that stream, for each dtype; and close to the CPU.
equal_bits() {  # equal_bits DIR INPUT-SHAPES BUDGETS...
  local dir=$1 shapes=$2 first= streamed=0
  shift 2
  for budget in "$@"; do
    "$forebay" run "$dir/model.plan" --weights "$dir" --device cuda --budget "$budget" --shapes "$shapes" --seed 3 --iterations 2 --json >"$dir/run.json" 2>>"$log" || return 1
    local digest bytes
    digest=$(json "$dir/run.json" '"".join(o["sha256"] for o in d["outputs"].values())')
    bytes=$(json "$dir/run.json" 'd["streamed_bytes"]["link"]')
    echo "budget $budget streamed $bytes digest ${digest:0:32}" >>"$log"
    [ -n "$digest" ] && [ "$digest" = "${first:=$digest}" ] || return 1
    [ "${bytes%%.*}" != 0 ] && streamed=$((streamed + 1))
  done
  [ $((streamed * 2)) -ge $# ]
}
model() {  # model PARAMS DTYPE: makes $work/PARAMS-DTYPE
  local dir=$work/$1-$2
  [ -f "$dir/model.plan" ] && return 0
  "$forebay" synth llama --params "$1" --dtype "$2" --seed 1 -o "$dir" >>"$log" 2>&1 && "$forebay" build "$dir/model.onnx" -o "$dir/model.plan" --strip >>"$log" 2>&1
}
sweep() {  # sweep DIR INPUT-SHAPES: 64 budgets in one process
  "$forebay" run "$1/model.plan" --weights "$1" --device cuda --budget 100% --shapes "$2" --seed 3 --sweep 64 --json >"$1/sweep.json" 2>>"$log"
}
swept=()
for dtype in f32 f16 bf16; do
  [ $curve = 1 ] && break
  step "synth 100M $dtype" model 100M $dtype
  if sweep "$work/100M-$dtype" input_ids=1x1; then
    swept+=("100M $dtype: $(json "$work/100M-$dtype/sweep.json" '"%d (%d streaming)" % (d["sweep"]["budgets"], d["sweep"]["streaming"])')")
  else
    swept+=("100M $dtype: FAILED") bad=1
  fi
  step "equal bits, decode, $dtype" equal_bits "$work/100M-$dtype" input_ids=1x1 100% 75% 50% 35% 25% 20% 15% 12%
  step "equal bits, prefill of 64, $dtype" equal_bits "$work/100M-$dtype" input_ids=1x64 100% 50% 35% 25%
  step "close to the CPU, $dtype" "$forebay" compare "$work/100M-$dtype/model.plan" --weights "$work/100M-$dtype" --device cuda --against cpu \
    --shapes input_ids=1x16 --seed 5 --rtol 0.05 --atol 0.05
done

# The fourth model, convolutions, is in cuda_engine_test.
[ $curve = 1 ] || row "equal bits at many budgets" "$(IFS=,; echo "${swept[*]}")$(grep -o 'convolutions: .*' "$log" | tail -1 | sed 's/^/, /')"

# ONNX's own tests on both devices, where the data of the onnx package is.
[ -n "$data" ] || data=$(python3 -c 'import onnx, os; print(os.path.join(os.path.dirname(onnx.__file__), "backend/test/data"))' 2>/dev/null)
if [ $curve = 0 ] && [ -d "$data/node" ]; then
  for device in cpu cuda; do
    timeout 900 "$forebay" conformance "$data"/{node,light,pytorch-converted,pytorch-operator,simple} --device $device --json >"$work/conformance-$device.json" 2>>"$log"
    row "onnx tests, $device" "$(json "$work/conformance-$device.json" '"passed %d, wrong %d, unsupported %d, skipped %d" % (d["passed"], d["wrong"], d["unsupported"], d["skipped"])')"
  done
  [ "$(json "$work/conformance-cuda.json" 'd["wrong"]')" = 0 ] || bad=1
fi

# The budget curve: link use beside the copy rate of the same run.
if [ $quick = 0 ]; then
  step "synth $params bf16" model "$params" bf16
  dir=$work/$params-bf16
  step "equal bits, $params" equal_bits "$dir" input_ids=1x1 100% 60% 30% 10%
  timeout 400 "$forebay" bench "$dir/model.plan" --weights "$dir" --device cuda --budget 10%,25%,50%,75%,100% --shapes input_ids=1x1 --seed 3 \
    --iterations 8 --warm-up 3 --json >"$work/bench.json" 2>>"$log" || bad=1
  row "copy limit, disk limit (GB/s)" "$(json "$work/bench.json" '"%.2f, %.2f" % (d["limits"]["link_gbps"], d["limits"]["disk_gbps"])')"
  while read -r line; do row "$params decode ${line%%:*}" "${line#*: }"; done < <(python3 - "$work/bench.json" 2>>"$log" <<'P'
import json, sys
for r in json.load(open(sys.argv[1]))["rows"]:
    if r["refused"]: print(f"{r['budget']}: refused"); continue
    print(f"{r['budget']}: p50 {r['pass_ms']['p50']:.2f} ms, link {r['streamed_bytes']['link'] / 1e9:.2f} GB a pass, "
          f"host cores {r['host_cores']:.2f}, device MiB beside the arena {r['device_bytes_beside'] / 2**20:.0f}, "
          f"share of the copy limit {100 * r['link_share']:.1f} %, peak over budget {max(0, r['peak_arena_bytes'] - r['budget_bytes'])}, {r['bound_by']}")
P
)
  timeout 200 "$forebay" bench "$dir/model.plan" --weights "$dir" --device cuda --budget 25% --host-cache 0 --direct on --shapes input_ids=1x1 --seed 3 --iterations 3 \
    --warm-up 1 --json >"$work/disk.json" 2>>"$log" || bad=1
  row "$params from disk, 25%" "$(json "$work/disk.json" '"p50 %.0f ms, share of the disk limit %.1f %%" % (d["rows"][0]["pass_ms"]["p50"], 100 * d["rows"][0]["disk_share"])')"
fi
echo
printf '%s\n' "${table[@]}"
exit $bad
