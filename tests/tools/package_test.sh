#!/usr/bin/env bash
# Installs into a prefix, builds the consumer project against it, moves the programs elsewhere and runs them.
# package_test.sh CMAKE BUILD CONSUMER
set -euo pipefail
cmake=$1 build=$2 consumer=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for target in libforebay.a libforebay-runtime.a tools/forebay tools/forebay-run; do
  [ -e "$build/$target" ] || { echo "$target is not built yet: run the whole build first"; exit 77; }
done
for component in tools runtime development; do "$cmake" --install "$build" --prefix "$work/prefix" --component $component > "$work/install.txt"; done
"$cmake" -G Ninja -S "$consumer" -B "$work/consumer" -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_BUILD_TYPE=Release > "$work/configure.txt"
"$cmake" --build "$work/consumer" > "$work/compile.txt"
"$work/consumer/consumer"
"$work/consumer/consumer_runtime"

# Relocatable: the prefix may move, and the runtime component stands alone.
mkdir "$work/elsewhere"
mv "$work/prefix" "$work/elsewhere/forebay-moved"
"$work/elsewhere/forebay-moved/bin/forebay" --version --json
"$work/elsewhere/forebay-moved/bin/forebay" synth llama --params 1M -o "$work/m"
"$work/elsewhere/forebay-moved/bin/forebay" build "$work/m/model.onnx" -o "$work/m.plan"
"$cmake" --install "$build" --prefix "$work/alone" --component runtime > "$work/install.txt"
"$work/alone/bin/forebay-run" run "$work/m.plan" --json > "$work/run.json"
grep -q '"peak_rss_bytes"' "$work/run.json"
echo "runtime component: $(stat -c %s "$work/alone/bin/forebay-run") bytes program, $(du -sb "$work/alone" | cut -f1) bytes with its libraries," \
  "RSS $(sed 's/.*"peak_rss_bytes":\([0-9]*\).*/\1/' "$work/run.json") bytes; forebay: $(stat -c %s "$work/elsewhere/forebay-moved/bin/forebay") bytes"
if command -v nm > /dev/null && nm -C "$build/tools/forebay-run" 2> /dev/null | grep -q 'forebay::builder::build('; then
  echo "the runtime program holds the builder"
  exit 1
fi
bash -c ". '$work/elsewhere/forebay-moved/share/bash-completion/completions/forebay'; COMP_WORDS=(forebay bui); COMP_CWORD=1; _forebay; [ \"\${COMPREPLY[*]}\" = build ]"
