#!/bin/bash
# One command for a GPU machine: tests, then benches, one short table last. Builds nothing: takes the folder of a build (default build/release).
#   tools/gpu_check.sh [--build DIR] [--work DIR] [--params 8B] [--quick] [--log FILE]
set -u
build=build/release work=${TMPDIR:-/tmp}/forebay-gpu params=8B quick=0 log=
while [ $# -gt 0 ]; do
  case $1 in
    --build) build=$2; shift 2 ;;
    --work) work=$2; shift 2 ;;
    --params) params=$2; shift 2 ;;
    --log) log=$2; shift 2 ;;
    --quick) quick=1; shift ;;
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
for test in device_test cuda_kernels_test; do
  [ -x "$build/tests/runtime/$test" ] && step "$test" "$build/tests/runtime/$test"
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
decode=$(printf 'input_ids=1x1')
for dtype in f32 f16 bf16; do
  step "synth 100M $dtype" model 100M $dtype
  shapes=input_ids=1x1,past=1x12x7x64
  step "equal bits, decode, $dtype" equal_bits "$work/100M-$dtype" "$decode" 100% 75% 50% 35% 25% 20% 15% 12%
done
echo
printf '%s\n' "${table[@]}"
exit $bad
