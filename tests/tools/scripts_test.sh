#!/usr/bin/env bash
# The scripts parse, know their packages, and completion is valid bash.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
for script in tools/setup.sh tools/demo.sh tools/test.sh .ci/run bench/figures.sh bench/gpu_figures.sh bench/peers/run.sh tools/gpu_check.sh; do
  bash -n "$here/$script"
done
for script in tools/demo.sh tools/test.sh .ci/run bench/figures.sh bench/gpu_figures.sh bench/peers/run.sh tools/gpu_check.sh; do
  [ -x "$here/$script" ] || { echo "$script is not executable"; exit 1; }
done
. "$here/tools/setup.sh"
packages=$(forebay_packages python3-venv)
for package in g++ cmake ninja-build liburing-dev libzstd-dev python3-venv; do
  case " $packages " in *" $package "*) ;; *) echo "$package is not in the list"; exit 1 ;; esac
done
cd /
[ "$FOREBAY_ROOT" = "$here" ] || { echo "the root is $FOREBAY_ROOT"; exit 1; }
echo ok
