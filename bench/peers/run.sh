#!/usr/bin/env bash
# Runs the peers on one model folder and writes a line of JSON each, with the device memory the driver showed. See README.md.
# run.sh FOLDER OUT.jsonl [compiled] [eager] [accelerate] [double_buffer] [load] [llama] [deepspeed] [deepspeed_nvme]
# deepspeed_nvme: NVME=a folder on the disk to be read from (another copy of the weights goes there; default FOLDER/nvme).
# llama.cpp: LLAMA_BENCH=path of llama-bench; GGUF=where the converted model goes (16 GB for the 8B; default FOLDER/model.gguf).
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:?usage: run.sh FOLDER OUT.jsonl [PEER...]}
out=${2:?usage: run.sh FOLDER OUT.jsonl [PEER...]}
shift 2
[ $# -gt 0 ] || set -- double_buffer accelerate eager load compiled ${LLAMA_BENCH:+llama}
python=${PYTHON:-python3}
limit=${LIMIT:-600}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

measured() {  # measured NAME COMMAND...: joins the peer's JSON with the peak
  local name=$1
  shift
  if timeout "$limit" "$python" "$here/peak_memory.py" --json "$work/peak.json" -- "$@" >"$work/out" 2>"$work/err"; then
    "$python" - "$work" >>"$out" 2>>"$work/err" <<'P' || { echo "$name gave no figure:" >&2; tail -"${ERROR_LINES:-5}" "$work/err" >&2; return; }
import json, sys
peer = json.loads(open(sys.argv[1] + "/out", encoding="utf-8").read().strip().splitlines()[-1])
whole = json.load(open(sys.argv[1] + "/peak.json", encoding="utf-8"))
# A peer that measured its own tokens' peak keeps it; the whole process's stands beside it.
print(json.dumps({**whole, "process_peak_device_bytes": whole["peak_device_bytes"], **peer}))
P
    tail -1 "$out"
  else
    echo "$name failed:" >&2
    tail -"${ERROR_LINES:-5}" "$work/err" >&2
  fi
}

llama() {
  local gguf=${GGUF:-$folder/model.gguf}
  [ -s "$gguf" ] || "$python" "$here/gguf_from_safetensors.py" "$folder" "$gguf" || return
  for layers in 99 13; do
    measured "llama.cpp with $layers layers" "$python" "$here/llama_bench.py" "${LLAMA_BENCH:?path of llama-bench}" "$gguf" "$layers"
  done
}

for peer in "$@"; do
  case $peer in
    compiled) measured $peer "$python" "$here/torch_compiled.py" "$folder" ${COMPILED_OPTIONS:-} ;;
    eager) measured $peer "$python" "$here/hf_decode.py" "$folder" ;;
    accelerate) measured $peer "$python" "$here/hf_decode.py" "$folder" --max-memory 6GiB ;;
    double_buffer) measured $peer "$python" "$here/torch_double_buffer.py" "$folder" ;;
    load) measured $peer "$python" "$here/safetensors_load.py" "$folder" ;;
    llama) llama ;;
    deepspeed) measured $peer "$python" "$here/deepspeed_inference.py" "$folder" ${DEEPSPEED_OPTIONS:-} ;;
    deepspeed_nvme)
      mkdir -p "${NVME:-$folder/nvme}"
      measured $peer "$python" "$here/deepspeed_inference.py" "$folder" --nvme "${NVME:-$folder/nvme}" ${DEEPSPEED_OPTIONS:-}
      rm -rf "${NVME:-$folder/nvme}"
      ;;
    *) echo "unknown peer $peer" >&2; exit 2 ;;
  esac
done
