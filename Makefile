# maia-edge: the two commands of the README are `make demo` and `make test`.
#
# Everything that links RocksDB is built with one profile, always for the whole workspace: another
# profile, package selection or RUSTFLAGS would compile RocksDB's C++ again (15 to 20 minutes).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

export CARGO_TARGET_DIR ?= $(HOME)/.cache/maia-edge/target
# ccache, where it is installed, saves RocksDB's build after `cargo clean`; it is not needed. The
# folder may come into being by `make setup`, so it is not looked for here.
export PATH := /usr/lib/ccache:$(PATH)
export CCACHE_DIR ?= $(HOME)/.cache/maia-edge/ccache

FLAGS := --workspace --locked --release
BIN := $(CARGO_TARGET_DIR)/release

.PHONY: help setup build demo test fix bench sim show-01 show-02 show-03 soak cold audit

help:
	@sed -n 's/^## //p' Makefile

## make demo      builds, starts three regions on this machine, and shows what they do
demo: build
	$(BIN)/maiactl demo $(DEMO)

## make test      format, lints, every test
test: format build
	@echo "== lints"
	cargo clippy $(FLAGS) --all-targets -- -D warnings
	@echo "== tests"
	scripts/test.sh $(FLAGS)

.PHONY: format
format:
	@echo "== format"
	cargo fmt --all --check

## make setup     installs what the machine lacks (Debian packages)
setup:
	@scripts/setup.sh

## make build     all binaries, in $CARGO_TARGET_DIR/release
build: setup
	@echo "== build (in $(CARGO_TARGET_DIR); the first time RocksDB alone takes 15 to 20 minutes)"
	cargo build $(FLAGS)

## make fix       formats, and applies the fixes that clippy knows
fix: setup
	cargo clippy $(FLAGS) --all-targets --fix --allow-dirty --allow-staged
	cargo fmt --all

## make bench     criterion benches
bench: setup
	cargo bench --workspace --locked --profile release

.PHONY: peers peers-proxy peers-log
## make peers     the same work on nginx, HAProxy, bare pingora and maia-proxy, and on etcd and the replicated log: ratios
##                (8 minutes and the build; fails on a miss)
peers:
	missed=0; $(MAKE) peers-proxy || missed=1; $(MAKE) peers-log || missed=1; exit $$missed

# The proxy and its peers alone: without RocksDB.
peers-proxy:
	@scripts/setup.sh peers
	cargo build -p maia-proxy -p maia-peers --profile dist --locked
	$(CARGO_TARGET_DIR)/dist/peers $(PEERS)

# The replicated log and etcd alone, as `make show-03` measures them.
peers-log: build
	@scripts/setup.sh peers
	$(BIN)/show appends

## make sim       one seed of the simulation with its trace: make sim SEED=7; many: make sim SEEDS=1000
sim: setup
	cargo build $(FLAGS) --bin sim
	$(if $(SEED),SIM_SEED=$(SEED)) $(BIN)/sim $(SEEDS)

## make show-01   what the first slice must show, with its figures; fails on a miss
show-01: build
	$(BIN)/show 01

## make show-02   placements at scale, a million tenants (about 25 minutes); fails on a miss
show-02: build
	cargo bench --workspace --locked --profile release --bench decide
	missed=0; $(BIN)/show 02 || missed=1; $(MAKE) peers-proxy || missed=1; exit $$missed

## make show-03   the replicated log: torture and simulation with their planted bugs, 30 minutes of faults (SHOW_FAULT_MINUTES), whose bytes
##                are where, appends beside etcd, a follower that was away, the demo (50 minutes); fails on a miss
show-03: build
	@scripts/setup.sh peers
	missed=0; cargo test $(FLAGS) --lib torture -- --nocapture --test-threads=1 || missed=1; $(BIN)/show 03 || missed=1; exit $$missed

## make soak      the long runs: 50 kills of a primary, a million tenants with 50 kills beside, 30,000 seeds of the simulation, 60 minutes of
##                faults and all else of show-03, a small disk
soak: build
	SHOW_KILLS=50 $(BIN)/show 01
	SHOW_KILLS=50 $(BIN)/show 02
	$(BIN)/sim 30000
	@scripts/setup.sh peers
	SHOW_FAULT_MINUTES=60 $(BIN)/show 03
	cargo test $(FLAGS) --test away -- --ignored

## make cold      `make demo` and `make test` in a fresh Debian with nothing but Rust and gcc (an hour)
cold:
	scripts/cold.sh

## make audit     licences, sources and duplicates of the dependencies
audit:
	cargo deny --locked check bans licenses sources
