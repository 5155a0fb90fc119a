#!/usr/bin/env bash
# One command for a GPU machine: tests, then figures, one table last. Builds nothing: takes the folder of a build (default build/release).
#   tools/gpu_check.sh [--build DIR] [--work DIR] [--params 8B] [--large 24B] [--quick | --curve] [--peers] [--sanitize] [--jobs N]
#                      [--limit SECONDS] [--log FILE] [--onnx-data DIR]
# --quick: tests and small models alone; --curve: the figures of --params alone, without tests; --large: then a model larger than the budget
# (24B: 47 GB of disk, the folder of --params is removed before); --peers: bench/peers too (torch and transformers; LLAMA_BENCH for llama.cpp);
# --sanitize: compute-sanitizer's memcheck and racecheck over the kernels' tests (long). --jobs: tests beside each other; --limit: for a test
# or a command. What fails is a row and does not stop the rest; when this is stopped, the table has what was there.
set -u
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=build/release work=${TMPDIR:-/tmp}/forebay-gpu params=8B large='' quick=0 curve=0 peers=0 sanitize=0 log='' data='' limit=900
jobs=$(($(nproc) / 2))
while [ $# -gt 0 ]; do
  case $1 in
    --build | --work | --params | --large | --log | --onnx-data | --jobs | --limit)
      [ $# -gt 1 ] || { echo "$1 needs a value" >&2; exit 2; }
      name=${1#--} name=${name#onnx-}
      printf -v "$name" %s "$2"
      shift 2
      ;;
    --quick | --curve | --peers | --sanitize) printf -v "${1#--}" 1; shift ;;
    *) echo "unknown option $1" >&2; exit 2 ;;
  esac
done
build=$(cd "$build" && pwd) || exit 2
mkdir -p "$work/tests" || exit 2
log=${log:-$work/gpu_check.log}
figures=$work/gpu_check_figures.md
: >"$log"
: >"$figures"
export FOREBAY_CUDA_LIBRARY=$build/src/runtime/cuda/libforebay_cuda.so
table=()
bad=0
row() { table+=("$(printf '%-34s %s' "$1" "$2")"); }
failed() { row "$1" "FAILED: ${2:-see $log}"; bad=1; }
finish() {
  local status=$?
  [ $status = 0 ] && status=$bad
  {
    echo
    printf '%s\n' "${table[@]}" "took $SECONDS s; details in $log"
    [ ! -s "$figures" ] || { echo; cat "$figures"; }
  } >&3
  exit $status
}
exec 3>&1  # the traps run wherever a command's output goes just then
trap finish EXIT
trap 'failed "stopped after $SECONDS s"; kill $(jobs -p) 2>/dev/null; exit 1' INT TERM
waited() {  # in the background, so that a signal does not wait for it
  "$@" &
  wait $!
}
forebay() { waited timeout --foreground "$limit" "$build/tools/forebay" "$@"; }
last_line() { tail -8 "$log" | grep -v '^$' | { grep -m1 '^forebay: ' || tail -1 "$log"; } | cut -c1-160; }
step() {  # step NAME COMMAND...: one row, ok or why not
  local name=$1 begin=$SECONDS
  shift
  echo "== $name: $*" >>"$log"
  if "$@" >>"$log" 2>&1; then row "$name" "ok ($((SECONDS - begin)) s)"; else failed "$name" "$(last_line)"; fi
}
json() { python3 -c 'import json,sys; d=json.load(open(sys.argv[1])); print(eval(sys.argv[2], {"d": d}))' "$1" "$2" 2>>"$log"; }

# Tests that look at the device's free memory run alone, the others beside each other.
alone='CudaLarge.*:CudaRun.TheUsersMemoryIsTheArena:*CommittedMemoryIsTakenFromTheDevice*'
one_test() {  # one_test PATH NAME FILTER [SHARD SHARDS]: tests/NAME.log and what came of it
  local name=$2
  trap 'kill $! 2>/dev/null' TERM  # of this background shell: the test ends with it
  GTEST_FILTER=$3 GTEST_SHARD_INDEX=${4:-0} GTEST_TOTAL_SHARDS=${5:-1} timeout --foreground "$limit" "$1" >"$work/tests/$name.log" 2>&1 &
  wait $!
  echo $? >"$work/tests/$name.rc"
}
cuda_tests() {
  local begin=$SECONDS count=0 failures=0 test shard shards rc
  rm -f "$work/tests"/*
  for test in "$build"/tests/models/cuda_*_test "$build"/tests/api/cuda_*_test "$build"/tests/runtime/{device,stretch}_test "$build"/tests/*/cuda_*_test; do
    { [ -x "$test" ] && [ ! -e "$work/tests/$(basename "$test").begun" ]; } || continue
    : >"$work/tests/$(basename "$test").begun"
    shards=1
    case $test in *families* | *engine*) shards=3 ;; esac
    for ((shard = 0; shard < shards; shard++)); do
      [ "$(jobs -rp | wc -l)" -lt "$jobs" ] || wait -n
      one_test "$test" "$(basename "$test").$shard" "-$alone" $shard $shards &
    done
  done
  wait
  for test in api/cuda_engine_test runtime/device_test; do
    [ ! -x "$build/tests/$test" ] || waited one_test "$build/tests/$test" "$(basename "$test").alone" "$alone"
  done
  for test in "$work/tests"/*.rc; do
    [ -e "$test" ] || break
    count=$((count + 1)) rc=$(cat "$test")
    [ "$rc" = 0 ] && continue
    failures=$((failures + 1))
    failed "$(basename "${test%.rc}")" "exit $rc, $(grep -m1 -A3 ': Failure' "${test%.rc}.log" | tr -s '\n ' ' ' | cut -c1-140) $(tail -1 "${test%.rc}.log" | cut -c1-80)"
  done
  cat "$work/tests"/*.log >>"$log" 2>/dev/null
  row "tests on the device" "$((count - failures)) of $count runs ok: $(cat "$work/tests"/*.log 2>/dev/null | grep -c '^\[       OK') tests, $(
    cat "$work/tests"/*.log 2>/dev/null | grep -c '^\[  SKIPPED \] .*(') skipped ($((SECONDS - begin)) s)"
  [ $count -gt 0 ] || failed "tests on the device" "none in $build/tests"
  # What cuda_engine_test printed of a model of 6.4 GB.
  row "beside the arena; 4 GB given back" "$(last 'taken beside it .* MiB' | cut -c17-); $(grep -o 'at the driver after [0-9.]* ms' "$log" | cut -c21- | paste -sd,)"
}
last() { grep -o "$1" "$log" | tail -1; }

checked() {  # checked TOOL TEST: compute-sanitizer's summary as a row
  local out=$work/$1-$2.txt
  timeout 3600 compute-sanitizer --tool "$1" --error-exitcode 9 "$build/tests/runtime/$2" >"$out" 2>&1 || bad=1
  row "$1, $2" "$(grep -oE '(ERROR|RACECHECK) SUMMARY: .*' "$out" | tail -1 | cut -d: -f2-)"
}

# The same bits at every budget, in runs that stream, for each dtype; and close to the CPU.
equal_bits() {  # equal_bits DIR INPUT-SHAPES BUDGETS...
  local dir=$1 shapes=$2 first='' streamed=0 budget digest bytes
  shift 2
  for budget in "$@"; do
    forebay run "$dir/model.plan" --weights "$dir" --device cuda --budget "$budget" --shapes "$shapes" --seed 3 --iterations 2 "--json=$dir/run.json" || return 1
    digest=$(json "$dir/run.json" '"".join(o["sha256"] for o in d["outputs"].values())')
    bytes=$(json "$dir/run.json" 'd["streamed_bytes"]["link"]')
    echo "budget $budget streamed $bytes digest ${digest:0:32}"
    [ -n "$digest" ] && [ "$digest" = "${first:=$digest}" ] || { echo "other bits at $budget"; return 1; }
    [ "${bytes%%.*}" != 0 ] && streamed=$((streamed + 1))
  done
  [ $((streamed * 2)) -ge $# ] || { echo "only $streamed of $# budgets streamed"; return 1; }
}
model() {  # model PARAMS DTYPE: makes $work/PARAMS-DTYPE
  local dir=$work/$1-$2
  [ -f "$dir/model.plan" ] && return 0
  forebay synth llama --params "$1" --dtype "$2" --seed 1 -o "$dir" && forebay build "$dir/model.onnx" -o "$dir/model.plan" --strip
}
sweep() {  # sweep DIR INPUT-SHAPES: 64 budgets in one process
  forebay run "$1/model.plan" --weights "$1" --device cuda --budget 100% --shapes "$2" --seed 3 --sweep 64 "--json=$1/sweep.json"
}
small_models() {
  local dtype dir swept=()
  for dtype in f32 f16 bf16; do
    dir=$work/100M-$dtype
    model 100M $dtype >>"$log" 2>&1 || { failed "100M $dtype" "$(last_line)"; continue; }
    if sweep "$dir" input_ids=1x1 >>"$log" 2>&1; then
      swept+=("100M $dtype: $(json "$dir/sweep.json" '"%d (%d streaming)" % (d["sweep"]["budgets"], d["sweep"]["streaming"])')")
    else
      failed "64 budgets, 100M $dtype" "$(last_line)"
    fi
    step "equal bits, decode, $dtype" equal_bits "$dir" input_ids=1x1 100% 35% 12%
    step "equal bits, prefill of 64, $dtype" equal_bits "$dir" input_ids=1x64 100% 50% 25%
    step "close to the CPU, $dtype" forebay compare "$dir/model.plan" --weights "$dir" --device cuda --against cpu \
      --shapes input_ids=1x16 --seed 5 --rtol 0.05 --atol 0.05
  done
  # Sweeps compare 64 budgets; the runs above, processes. The fourth model, convolutions, is in cuda_engine_test.
  row "equal bits at many budgets" "$(IFS=,; echo "${swept[*]-}")$(last 'convolutions: .*' | sed 's/^/, /')"
}

# ONNX's own tests on both devices, where the data of the onnx package is.
onnx_tests() {
  local device out
  [ -n "$data" ] || data=$(python3 -c 'import onnx, os; print(os.path.join(os.path.dirname(onnx.__file__), "backend/test/data"))' 2>/dev/null)
  [ -d "$data/node" ] || { row "onnx tests" "not run: --onnx-data names no folder with node/"; return; }
  for device in cpu cuda; do
    out=$work/conformance-$device.json
    rm -f "$out"
    forebay conformance "$data"/{node,light,pytorch-converted,pytorch-operator,simple} --device $device --json >"$out" 2>>"$log"
    row "onnx tests, $device" "$(json "$out" '"passed %d, wrong %d, unsupported %d, skipped %d" % (d["passed"], d["wrong"], d["unsupported"], d["skipped"])')"
    [ "$(json "$out" 'd["wrong"]')" = 0 ] || failed "onnx tests, $device" "$(last_line)"
  done
}

figures_of() { FOREBAY=$build/tools/forebay LIMIT=$limit waited "$root/bench/gpu_figures.sh" "$work" "$@" >>"$figures" 2>>"$log" || bad=1; }

row machine "$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -1)"
if [ $curve = 0 ]; then
  cuda_tests
  if [ $sanitize = 1 ]; then
    for test in $(cd "$build/tests/runtime" && ls -- cuda_*_test 2>/dev/null); do
      for tool in memcheck racecheck; do checked $tool "$test"; done
    done
  fi
  small_models
  onnx_tests
fi
# Figures: each beside the copy and disk rates of its own run.
if [ $quick = 0 ]; then
  step "synth $params bf16" model "$params" bf16
  [ $curve = 1 ] || step "equal bits, $params" equal_bits "$work/$params-bf16" input_ids=1x1 100% 60% 30% 10%
  steps=(resident prefill budgets curve disk)
  [ $peers = 0 ] || steps+=(peers)
  echo "$params" >>"$figures"
  BUDGETS=10%,25%,50%,75% figures_of "$params" "${steps[@]}"
  if [ -n "$large" ]; then
    rm -rf "${work:?}/$params-bf16"
    echo "$large" >>"$figures"
    figures_of "$large" budgets batch held
  fi
fi
exit $bad
