#!/usr/bin/env bash
# Runs both examples on a small synthetic model: examples_test.sh FOREBAY STRIP_REFIT STREAM_OVERSIZED
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$1" synth llama --params 1M --dtype f32 -o "$work"
"$1" build "$work/model.onnx" -o "$work/model.plan" --strip
"$2" "$work/model.onnx" "$work" | tee "$work/refit.txt"
grep -q logits "$work/refit.txt"
"$3" "$work/model.plan" "$work/model.onnx" | tee "$work/stream.txt"
grep -q 'same bits' "$work/stream.txt"
