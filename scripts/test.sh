#!/usr/bin/env bash
# Runs every test with the flags it is given: with nextest where it is installed, else with cargo's
# own runner (slower, and end-to-end tests share its threads).
set -euo pipefail

if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run "$@"
else
    echo "test: cargo-nextest is not installed; using cargo test"
    cargo test "$@" --lib --bins --tests -- --test-threads=2
fi
echo "== documentation tests"
cargo test "$@" --doc
