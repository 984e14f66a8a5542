#!/usr/bin/env bash
# Installs the Debian packages that the build needs and this machine lacks; nothing when all are
# there. Asks for root only when something is missing. `setup.sh peers`: those of `make peers`, whose
# build needs no C++.
set -euo pipefail

if ! command -v cargo >/dev/null; then
    echo "setup: Rust is missing: install the toolchain that rust-toolchain.toml names" >&2
    exit 1
fi

missing=()
if [ "${1:-}" = peers ]; then
    command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || missing+=(nginx-light)
    command -v haproxy >/dev/null || [ -x /usr/sbin/haproxy ] || missing+=(haproxy)
    command -v wrk >/dev/null || missing+=(wrk)
    command -v etcd >/dev/null || missing+=(etcd-server)
    command -v gcc >/dev/null || missing+=(gcc libc6-dev)
else
    # RocksDB's bindings need libclang, its build a C++ compiler and cmake's helpers.
    command -v clang >/dev/null || missing+=(clang)
    ls /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so* >/dev/null 2>&1 || missing+=(libclang-dev)
    command -v cmake >/dev/null || missing+=(cmake)
    command -v pkg-config >/dev/null || missing+=(pkg-config)
    command -v g++ >/dev/null || missing+=(g++)
    command -v make >/dev/null || missing+=(make)
    # The end-to-end tests use curl as a client that is not ours.
    command -v curl >/dev/null || missing+=(curl)
    # Their coordinators' wall clocks are set wrong with this.
    ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || missing+=(libfaketime)
fi

if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi

echo "setup: missing: ${missing[*]}"
if ! command -v apt-get >/dev/null; then
    echo "setup: this is no Debian; install what corresponds to: ${missing[*]}" >&2
    exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        as_root=(sudo -n)
    else
        echo "setup: neither root nor sudo without a password; run this once as root:" >&2
        echo "  apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
fi

install() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --quiet --no-install-recommends "${missing[@]}"
}
# The package lists may be absent or old: fetched only then.
if ! install; then
    echo "setup: trying again with fresh package lists"
    "${as_root[@]}" apt-get update --quiet
    install
fi
