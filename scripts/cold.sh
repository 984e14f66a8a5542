#!/usr/bin/env bash
# `make demo` and `make test` from nothing: a fresh clone, an empty target folder, no ccache, in a
# fresh Debian that has Rust and gcc and nothing else. Needs root and debootstrap; takes about an
# hour on two cores. COLD_DIR (default: a temporary folder) needs 12 GB. COLD_CCACHE=DIR takes RocksDB's
# objects from a ccache folder where they fit: that proves all but the time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "== cold: $*"; }

if [ "$(id -u)" -ne 0 ]; then
    echo "cold: needs root, for debootstrap and chroot" >&2
    exit 1
fi
command -v debootstrap >/dev/null || apt-get install --yes --quiet debootstrap

dir=${COLD_DIR:-$(mktemp -d /var/tmp/maia-cold.XXXXXX)}
root=$dir/debian
mounts=()
cleanup() {
    for mount in "${mounts[@]}"; do umount --lazy "$mount" || true; done
    [ -n "${COLD_DIR:-}" ] || rm -rf --one-file-system "$dir"
}
trap cleanup EXIT

bind() {
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    mounts=("$root$2" "${mounts[@]}")
}

say "a fresh Debian in $root"
. /etc/os-release
# The mirror and the package sources of this machine, whatever they are.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | head -n 1)
debootstrap --variant=minbase --include=ca-certificates,gcc,libc6-dev,make,git \
    "$VERSION_CODENAME" "$root" "$mirror"
cp -a /etc/apt/. "$root/etc/apt/"
cp /etc/resolv.conf "$root/etc/resolv.conf"
bind /proc /proc
bind /dev /dev
bind /sys /sys

say "Rust, as it is on this machine; its registry cache without anything built"
bind "$(rustc --print sysroot)" /opt/rust
cargo_home=${CARGO_HOME:-$HOME/.cargo}
mkdir -p "$root/root/.cargo"
for part in config.toml registry; do
    [ ! -e "$cargo_home/$part" ] || cp -a "$cargo_home/$part" "$root/root/.cargo/"
done

cp "$(command -v cargo-nextest)" "$root/usr/local/bin/"
if [ -n "${COLD_CCACHE:-}" ]; then
    chroot "$root" apt-get install --yes --quiet --no-install-recommends ccache
    bind "$COLD_CCACHE" /root/.cache/maia-edge/ccache
fi

say "a fresh clone of $(git rev-parse --short HEAD)"
git clone --quiet --no-local . "$root/root/maia-edge"

inside() {
    # The machine's environment counts only where it says how to reach the package registries.
    env -i HOME=/root USER=root LANG=C.UTF-8 CI=true CCACHE_COMPILERCHECK=content \
        PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
        ${SSL_CERT_FILE:+SSL_CERT_FILE="$SSL_CERT_FILE"} \
        chroot "$root" /bin/bash -c "cd /root/maia-edge && $1"
}

for target in demo test; do
    say "make $target"
    began=$SECONDS
    inside "make $target"
    say "make $target held: $(((SECONDS - began) / 60)) minutes"
done
