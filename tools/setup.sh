# Sourced by demo.sh and test.sh: installs what is missing, configures, builds. Safe to run again: then it does nothing.
# Package names are those of Debian 12; the ones of Ubuntu 24.04 are there too but untried.
set -euo pipefail
FOREBAY_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Where ccache is in use, checkouts in different folders share what they compile.
export CCACHE_BASEDIR="${CCACHE_BASEDIR:-$FOREBAY_ROOT}" CCACHE_NOHASHDIR="${CCACHE_NOHASHDIR:-1}"

say() { printf 'forebay: %s\n' "$*" >&2; }

forebay_packages() {
  local boost=1.81
  if [ -r /etc/os-release ]; then
    . /etc/os-release
    case "${ID:-}:${VERSION_ID:-}" in
      ubuntu:24.04) boost=1.83 ;;
      debian:12) ;;
      *) say "this is ${PRETTY_NAME:-an unknown system}; the package names are those of Debian 12" ;;
    esac
  fi
  echo g++ cmake ninja-build pkg-config git "libboost${boost}-dev" "libboost-json${boost}-dev" "libboost-program-options${boost}-dev" \
    libdnnl-dev ocl-icd-opencl-dev opencl-headers libfmt-dev libgtest-dev googletest libprotobuf-dev protobuf-compiler libspdlog-dev libssl-dev liburing-dev \
    libxxhash-dev libzstd-dev "$@"
}

# Installs the packages given that are missing. Asks apt to update its lists only when it does not know a package.
install_missing() {
  command -v dpkg-query >/dev/null || { say "no dpkg here: install a compiler and the libraries of README.md by hand"; return 0; }
  local package missing=()
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  local sudo=""
  [ "$(id -u)" -eq 0 ] || sudo="sudo"
  say "installing with ${sudo:+$sudo }apt-get: ${missing[*]}"
  for package in "${missing[@]}"; do
    if ! apt-cache show "$package" >/dev/null 2>&1; then
      $sudo apt-get update
      break
    fi
  done
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y --no-install-recommends "${missing[@]}"
}

# configure_and_build DIR TARGETS... -- CMAKE OPTIONS...
configure_and_build() {
  local dir=$1 targets=() options=()
  shift
  while [ $# -gt 0 ] && [ "$1" != -- ]; do targets+=("$1"); shift; done
  [ $# -gt 0 ] && shift
  options=("$@")
  # Configured again only when the options changed: a second run does no needless work.
  local stamp="$dir/.forebay_options" wanted="${options[*]}"
  if [ ! -f "$dir/build.ninja" ] || [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    cmake -S "$FOREBAY_ROOT" -B "$dir" -G Ninja "${options[@]}" >&2
    printf '%s' "$wanted" > "$stamp"
  fi
  ninja -C "$dir" ${targets[@]+"${targets[@]}"} >&2
}
