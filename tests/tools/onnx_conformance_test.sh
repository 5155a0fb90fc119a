#!/bin/sh
# The test folders that come with the onnx package: none wrong, and as many passed as the goal says: onnx_conformance_test.sh FOREBAY.
# Needs FOREBAY_TEST_PYTHON; 77 without.
set -eu
[ -n "${FOREBAY_TEST_PYTHON:-}" ] || { echo "FOREBAY_TEST_PYTHON is not set: no test folders of ONNX"; exit 77; }
data=$("$FOREBAY_TEST_PYTHON" -c 'import os, onnx.backend.test as t; print(os.path.join(os.path.dirname(t.__file__), "data"))') || exit 77
[ -d "$data/node" ] || { echo "this onnx package has no test folders"; exit 77; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for suite in node:1143 light:9 pytorch-converted:82 pytorch-operator:35; do
  "$1" conformance "$data/${suite%:*}" --json="$folder/result.json" > "$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
  "$FOREBAY_TEST_PYTHON" - "$folder/result.json" "$suite" <<'CHECK'
import json
import sys

result = json.load(open(sys.argv[1]))
suite, least = sys.argv[2].split(":")
print(suite, {key: result[key] for key in ("passed", "wrong", "unsupported", "skipped")})
unnamed = [c["name"] for c in result["cases"] if c["status"] in ("unsupported", "skipped") and not c["reason"]]
assert result["wrong"] == 0, [c for c in result["cases"] if c["status"] == "wrong"]
assert not unnamed, f"no reason given: {unnamed}"
assert result["passed"] >= int(least)
CHECK
done
