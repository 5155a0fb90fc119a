#!/usr/bin/env bash
# Builds forebay in Release and runs its tests. Installs what is missing first. Works from any folder; offline once the packages are there
# (without them the tests that compare with ONNX Runtime or need real models are skipped, and say so). Arguments go to ctest.
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
install_missing $(forebay_packages python3 python3-venv)

build="$FOREBAY_ROOT/build/release"
venv="$FOREBAY_ROOT/build/venv"

# Oracles and real models, by name from the Python package index. The three model packages come without their dependencies.
python_oracles() {
  local stamp="$venv/.complete-1"
  [ -f "$stamp" ] && return 0
  say "making a Python environment in build/venv (onnx, onnxruntime, numpy, safetensors, ml_dtypes; real models)"
  python3 -m venv "$venv" || return 1
  "$venv/bin/pip" install -q --disable-pip-version-check onnx==1.22.0 onnxruntime numpy safetensors ml_dtypes || return 1
  "$venv/bin/pip" install -q --disable-pip-version-check --no-deps rapidocr-onnxruntime==1.4.4 magika==1.0.3 silero-vad==6.2.3 || return 1
  touch "$stamp"
}
if [ -z "${FOREBAY_TEST_PYTHON:-}" ]; then
  if python_oracles; then
    export FOREBAY_TEST_PYTHON="$venv/bin/python"
  else
    say "no Python packages (offline?): the tests that need them will be skipped"
  fi
fi

configure_and_build "$build" all -- -DCMAKE_BUILD_TYPE=Release
cd "$build"
exec ctest --output-on-failure -j "${FOREBAY_TEST_JOBS:-$(nproc)}" "$@"
