#!/usr/bin/env bash
# Builds forebay and runs its demo. Installs what is missing first. Works from any folder; offline once the packages are there.
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
install_missing $(forebay_packages)
configure_and_build "$FOREBAY_ROOT/build/release" forebay_command -- -DCMAKE_BUILD_TYPE=Release
exec "$FOREBAY_ROOT/build/release/tools/forebay" demo "$@"
