#!/usr/bin/env bash
# Load on a real cluster of three regions on this machine, with oha: reads of the built-in origin,
# misrouted writes (answered 307), and both at once with accepted writes. Prints requests per second,
# p50 and p99 of each scenario. Each ends by itself after LOAD_SECONDS (10).
#
#   benches/load/run.sh            starts a cluster in a temporary folder, and ends it
#   benches/load/run.sh DIR        uses the cluster that runs in DIR
#
# The binaries are those of MAIA_BIN_DIR, or else of the target folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

seconds=${LOAD_SECONDS:-10}
connections=${LOAD_CONNECTIONS:-64}
base_port=${LOAD_BASE_PORT:-18500}
bin=${MAIA_BIN_DIR:-${CARGO_TARGET_DIR:-$HOME/.cache/maia-edge/target}/release}
maiactl=$bin/maiactl

if ! command -v oha >/dev/null; then
    echo "load: oha is missing: cargo install oha --version 1.16.0 --locked" >&2
    exit 1
fi
if [ ! -x "$maiactl" ]; then
    echo "load: $maiactl is missing: make build" >&2
    exit 1
fi

out=$(mktemp -d)
dir=${1:-}
cleanup() {
    [ -n "${1:-}" ] || "$maiactl" --dir "$dir" cluster down >/dev/null || true
    rm -rf "$out"
}
trap 'cleanup "${1:-}"' EXIT
if [ -z "$dir" ]; then
    dir=$out/cluster
    "$maiactl" --dir "$dir" cluster up --base-port "$base_port" >/dev/null
fi

# The regions' names and proxies, in the order of the file.
mapfile -t regions < <(grep -o '"name": *"[^"]*' "$dir/cluster.json" | cut -d'"' -f4)
mapfile -t proxies < <(grep -o '"proxy_url": *"[^"]*' "$dir/cluster.json" | cut -d'"' -f4)
here=${regions[0]} there=${regions[1]}
"$maiactl" --dir "$dir" tenant place load-here --primary "$here" --replicas "$there" >/dev/null
"$maiactl" --dir "$dir" tenant place load-there --primary "$there" --replicas "$here" >/dev/null

# Both placements are in force at the proxy, and the resource that is read is there.
answered() {
    local tenant=$1 wanted=$2 status=
    for _ in $(seq 1 100); do
        status=$(curl --silent --output /dev/null --write-out '%{http_code}' -X PUT \
            "${proxies[0]}/v1/data/notes/n1" -H "X-MAIA-Tenant-ID: $tenant" \
            -H 'Content-Type: application/json' -d '{"text":"load"}') || true
        [[ $status =~ ^$wanted$ ]] && return
        sleep 0.1
    done
    echo "load: the first write of $tenant was answered $status" >&2
    exit 1
}
answered load-here '20.'
answered load-there 307

# oha's own table, of which three lines are kept.
load() {
    local file=$1 tenant=$2
    shift 2
    oha --no-tui --time-unit ms --redirect 0 -z "${seconds}s" -H "X-MAIA-Tenant-ID: $tenant" "$@" >"$out/$file"
}
show() {
    awk -v name="$2" '
        /Requests\/sec/ { rate = $2 }
        /50\.00% in/ { p50 = $3 }
        /99\.00% in/ { p99 = $3 }
        /^ *\[[0-9]+\] [0-9]+ responses/ { statuses = statuses " " $1 $2 }
        END { printf "%-28s %9.0f requests/s   p50 %6.2f ms   p99 %6.2f ms  %s\n", name, rate, p50, p99, statuses }
    ' "$out/$1"
}
write=(-m PUT -T application/json -d '{"text":"load"}')

load reads load-here -c "$connections" "${proxies[0]}/v1/data/notes/n1"
show reads "reads"
load misrouted load-there -c "$connections" "${write[@]}" "${proxies[0]}/v1/data/notes/n1"
show misrouted "misrouted writes"
half=$((connections / 2))
load mixed-reads load-here -c "$half" "${proxies[0]}/v1/data/notes/n1" &
reads=$!
load mixed-writes load-here -c "$half" "${write[@]}" "${proxies[0]}/v1/data/notes/n1"
wait "$reads"
show mixed-reads "mixed: reads"
show mixed-writes "mixed: writes"
