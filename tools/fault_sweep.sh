#!/usr/bin/env bash
# Every fault at every site, not only the quick set that the tests try by themselves: allocations, reads, writes, syncs, renames, kills,
# power cuts, and 10,000 refits under load. Takes some minutes. Prints how many faults were injected and survived.
#   tools/fault_sweep.sh [BUILD_DIR]     (default build/release, built by tools/test.sh)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=${1:-build/release}
log=$(mktemp)
trap 'rm -f "$log" "$log.one"' EXIT

# The binaries themselves, not ctest: its time limits are those of the quick set.
failed=0
export FOREBAY_FAULT_SWEEP=full
for name in $(ctest --test-dir "$build" -N -L fault | awk '/Test +#/ { print $NF }'); do
  binary=$(find "$build/tests" -type f -name "$name" -perm -u+x | head -n 1)
  [ -n "$binary" ] || { echo "fault sweep: $name is not built" >&2; failed=1; continue; }
  start=$SECONDS
  if "$binary" >"$log.one" 2>&1; then result=passed; else result=FAILED; failed=1; grep -E 'Failure|FAILED' "$log.one" | head -20; fi
  printf '%-32s %s in %d s\n' "$name" "$result" $((SECONDS - start))
  cat "$log.one" >>"$log"
done
awk '/faults: injected/ { gsub(",", ""); injected += $(NF - 2); survived += $NF }
     END { printf "faults: injected %d, survived %d\n", injected, survived }' "$log"
exit "$failed"
