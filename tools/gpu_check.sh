#!/usr/bin/env bash
# One command for a GPU machine: tests, then figures, the tables last. Builds nothing: takes the folder of a build (default build/release).
#   tools/gpu_check.sh [--build DIR] [--work DIR] [--params 8B] [--large 24B] [--quick | --curve] [--peers] [--sanitize] [--log FILE]
#                      [--onnx-data DIR]
# --quick: tests and small models alone; --curve: the figures of --params alone, without tests; --large: then a model larger than the budget
# (24B: 47 GB of disk, the folder of --params is removed before); --peers: bench/peers too (torch and transformers; LLAMA_BENCH for llama.cpp);
# --sanitize: compute-sanitizer's memcheck and racecheck over the kernels' tests (long).
set -u
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=build/release work=${TMPDIR:-/tmp}/forebay-gpu params=8B large= quick=0 curve=0 peers=0 sanitize=0 log= data=
while [ $# -gt 0 ]; do
  case $1 in
    --build) build=$2; shift 2 ;;
    --work) work=$2; shift 2 ;;
    --params) params=$2; shift 2 ;;
    --large) large=$2; shift 2 ;;
    --log) log=$2; shift 2 ;;
    --onnx-data) data=$2; shift 2 ;;  # onnx/backend/test/data of the onnx package
    --quick) quick=1; shift ;;
    --curve) curve=1; shift ;;
    --peers) peers=1; shift ;;
    --sanitize) sanitize=1; shift ;;
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
# What cuda_engine_test printed of a model of 6.4 GB.
last() { grep -o "$1" "$log" | tail -1; }
[ $curve = 1 ] || row "beside the arena; 4 GB given back" "$(last 'taken beside it .* MiB' | cut -c17-); $(grep -o 'at the driver after [0-9.]* ms' "$log" | cut -c21- | paste -sd,)"

checked() {  # checked TOOL TEST: compute-sanitizer's summary as a row
  local out=$work/$1-$2.txt
  timeout 3600 compute-sanitizer --tool "$1" --error-exitcode 9 "$build/tests/runtime/$2" >"$out" 2>&1 || bad=1
  row "$1, $2" "$(grep -oE '(ERROR|RACECHECK) SUMMARY: .*' "$out" | tail -1 | cut -d: -f2-)"
}
if [ $sanitize = 1 ]; then
  for test in $(cd "$build/tests/runtime" && ls -- cuda_*_test 2>/dev/null); do
    for tool in memcheck racecheck; do checked $tool "$test"; done
  done
fi

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
[ $curve = 1 ] || row "equal bits at many budgets" "$(IFS=,; echo "${swept[*]}")$(last 'convolutions: .*' | sed 's/^/, /')"

# ONNX's own tests on both devices, where the data of the onnx package is.
[ -n "$data" ] || data=$(python3 -c 'import onnx, os; print(os.path.join(os.path.dirname(onnx.__file__), "backend/test/data"))' 2>/dev/null)
if [ $curve = 0 ] && [ -d "$data/node" ]; then
  for device in cpu cuda; do
    timeout 900 "$forebay" conformance "$data"/{node,light,pytorch-converted,pytorch-operator,simple} --device $device --json >"$work/conformance-$device.json" 2>>"$log"
    row "onnx tests, $device" "$(json "$work/conformance-$device.json" '"passed %d, wrong %d, unsupported %d, skipped %d" % (d["passed"], d["wrong"], d["unsupported"], d["skipped"])')"
  done
  [ "$(json "$work/conformance-cuda.json" 'd["wrong"]')" = 0 ] || bad=1
fi

# Figures: each beside the copy and disk rates of its own run.
figures=()
if [ $quick = 0 ]; then
  step "synth $params bf16" model "$params" bf16
  [ $curve = 1 ] || step "equal bits, $params" equal_bits "$work/$params-bf16" input_ids=1x1 100% 60% 30% 10%
  steps="resident prefill budgets curve disk"
  [ $peers = 0 ] || steps+=" peers"
  # shellcheck disable=SC2086
  figures+=("$(FOREBAY=$forebay BUDGETS=10%,25%,50%,75% "$root/bench/gpu_figures.sh" "$work" "$params" $steps 2>>"$log")") || bad=1
  if [ -n "$large" ]; then
    rm -rf "$work/$params-bf16"
    figures+=("$large" "$(FOREBAY=$forebay "$root/bench/gpu_figures.sh" "$work" "$large" budgets batch held 2>>"$log")") || bad=1
  fi
fi
echo
printf '%s\n' "${table[@]}"
[ ${#figures[@]} = 0 ] || printf '\n%s\n' "${figures[@]}"
exit $bad
