#!/bin/sh
# Graphs whose shapes depend on data give ONNX Runtime's answers: data_shapes_test.sh FOREBAY CASES.py. Needs FOREBAY_TEST_PYTHON; 77 without.
set -eu
[ -n "${FOREBAY_TEST_PYTHON:-}" ] || { echo "FOREBAY_TEST_PYTHON is not set: no ONNX Runtime to compare with"; exit 77; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$FOREBAY_TEST_PYTHON" "$2" "$folder"
result=$("$1" conformance "$folder") || { echo "$result"; exit 1; }
echo "$result" | tail -n 1 | grep -q '^75 cases: 75 passed' || { echo "$result"; exit 1; }
