# Every command anyone types. `make run` needs Rust and a C compiler; `make test` also python3, node, npm and Go, the headers of
# OpenSSL and zlib, and what `scripts/services` installs with apt.
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help run test services lint unit gen drift built sim planted planted-adapters twins examples operations proof long torture torture-cluster torture-rf3 fuzz conformance mutants bench bench-cluster bench-peers

TARGET := $(or $(CARGO_TARGET_DIR),target)
# A clone of the RustSec database.
ADVISORIES ?= ../shared/advisory-db
# Seeds of one `make sim`.
SEEDS ?= 2000
# Seeds of one `make twins`.
TWINS ?= 500
# Seconds of each target of one `make fuzz`.
FUZZ_SECONDS ?= 20
# Arguments of `make bench`.
BENCH ?=
# Arguments of the server, as in: make run ARGS="all --port 4001"
ARGS ?=

# What is built for tests: all adapters.
CLUSTER := --features ringforge/cluster

help: ## list these commands
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

run: ## start everything in one process
	cargo run --locked -p ringforge -- $(ARGS)

services: ## start Kafka, Postgres, Redis and S3 for development; `scripts/services down` ends them
	scripts/services install
	scripts/services up

test: lint unit drift sim examples ## all checks; installs what they need below target/

lint: ## format, clippy; licences and advisories where cargo-deny and cargo-audit are installed
	cargo fmt --all --check
	rustfmt --check --edition 2024 fuzz/fuzz_targets/*.rs
	cargo clippy --workspace --all-targets --locked $(CLUSTER) -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; \
	else echo "SKIPPED: licences and bans, because cargo-deny is not installed"; fi
	@if ! cargo audit --version >/dev/null 2>&1; then echo "SKIPPED: advisories, because cargo-audit is not installed"; \
	elif [ ! -d $(ADVISORIES) ]; then echo "SKIPPED: advisories, because there is no database in $(ADVISORIES)"; \
	else cargo audit --no-fetch --stale --db $(ADVISORIES); fi

unit: ## tests of all crates, against real servers
	scripts/services install
	scripts/services run cargo test --workspace --locked $(CLUSTER)

gen: ## write schemas, goldens and docs/protocol.md from the catalogue
	cargo run --locked -q -p ringforge $(CLUSTER) -- gen

drift: gen ## what `make gen` writes is what is checked in
	git diff --exit-code --stat -- schemas docs
	@new=$$(git ls-files --others --exclude-standard -- schemas docs); \
	if [ -n "$$new" ]; then echo "make gen wrote files that are not checked in:"; echo "$$new"; exit 1; fi

# `--workspace`: all that is built so shares what is built.
built:
	cargo build --profile proof --workspace --locked -q --bin ringforge-sim --example echo

sim: built ## simulate SEEDS=n worlds with faults
	$(TARGET)/proof/ringforge-sim --seeds $(SEEDS)

planted: built ## each planted bug is found within SEEDS=n worlds
	$(TARGET)/proof/ringforge-sim --seeds $(SEEDS) --planted all

planted-adapters: ## each bug that is planted in an adapter is found by its tests, over the real servers
	scripts/services install
	scripts/services run scripts/test-planted

twins: built ## in TWINS=n worlds, what a tenant sees does not depend on another
	$(TARGET)/proof/ringforge-sim --seeds $(TWINS) --twins

# The scripts find the server in RINGFORGE, python with `websockets` in PYTHON; `ws` is in examples/node_modules.
examples: export RINGFORGE := $(abspath $(TARGET))/debug/ringforge
examples: export PYTHON := $(abspath $(TARGET))/venv/bin/python
examples: $(TARGET)/venv/done $(TARGET)/node/done ## play the stories of examples/, execute the README
	cargo build --locked -p ringforge $(CLUSTER)
	@ln -sfn "$(abspath $(TARGET))/node/node_modules" examples/node_modules
	scripts/services run scripts/test-examples
	scripts/test-readme

operations: export RINGFORGE := $(abspath $(TARGET))/debug/ringforge
operations: ## execute docs/operations.md, on three brokers and all else that it names
	cargo build --locked -p ringforge $(CLUSTER)
	scripts/services install
	BROKERS=3 scripts/services run scripts/test-operations

# Every long suite; each is a target of its own.
proof: export SEEDS = 20000
proof: export MUTANTS_MAX = 8
proof: planted planted-adapters sim twins operations long fuzz conformance mutants ## the long suites: what `make test` has no time for

# As `make unit` builds them: most of their time is disks, sockets and waiting. Crowds need a server that is optimised;
# `figures` measures.
CROWDS := _thousand_ killed_at_any_moment many_seeds tenants_do_not_notice
# By hand: three brokers and all else on two cores.
BY_HAND := three_brokers
long: ## the tests that are marked `ignore`: long ones, over the real binary and its files
	scripts/services run cargo test --workspace --locked $(CLUSTER) --no-fail-fast -- --ignored $(addprefix --skip ,$(CROWDS) $(BY_HAND) figures)
	cargo test --profile proof --workspace --locked --no-fail-fast --test resources --test torture --test turmoil --test twins \
	-- --ignored $(CROWDS)

# Kills of one `make torture`.
N ?= 25
torture: export CYCLES = $(N)
torture: ## kill the server N=n times at random moments under load; its promises hold
	cargo test --profile proof --workspace --locked --test torture -- --ignored --nocapture

# Cycles of one `make torture-cluster`; `make proof` has eight.
torture-cluster: export CYCLES = $(N)
torture-cluster: ## kill, stop and cut off roles and servers of a cluster in N=n cycles under load; its promises hold
	scripts/services install
	scripts/services run cargo test -p ringforge --locked $(CLUSTER) --test torture_cluster -- --ignored --nocapture \
	whatever_is_killed

torture-rf3: export CYCLES = $(N)
torture-rf3: ## the same with three brokers, of which some are killed, stopped and lose what they wrote last
	scripts/services install
	scripts/services run cargo test -p ringforge --locked $(CLUSTER) --test torture_cluster -- --ignored --nocapture three_brokers

# MUTANTS=all: every line of the domain, for hours; MUTANTS="all 3/8": an eighth of it.
mutants: export CARGO_MUTANTS := $(abspath $(TARGET))/tools/bin/cargo-mutants
mutants: ## change new lines of the domain in small ways: its tests should notice
	@$$CARGO_MUTANTS --version >/dev/null 2>&1 \
	|| cargo install --quiet --locked --debug --root $(TARGET)/tools cargo-mutants@27.1.0 \
	|| { echo "SKIPPED: mutants, because cargo-mutants cannot be installed"; exit 0; }; \
	scripts/mutants $(MUTANTS)

fuzz: ## feed FUZZ_SECONDS=n of odd input each to doors, codecs, parsers and the fold
	scripts/test-fuzz $(FUZZ_SECONDS)

conformance: export ECHO := $(abspath $(TARGET))/proof/examples/echo
conformance: export AUTOBAHN := $(abspath $(TARGET))/autobahn
conformance: built ## the wire against RFC 6455, as Autobahn reads it (needs Python 2.7)
	scripts/test-conformance

bench: ## measure everything, write loadtest/RESULTS.md (BENCH=--quick: less of it; BENCH="--only NAME": one row)
	loadtest/bench.sh $(BENCH)

bench-cluster: ## the same of roles apart on Kafka, PostgreSQL and Redis, write loadtest/CLUSTER.md
	loadtest/bench.sh --cluster $(BENCH)

bench-peers: ## as `make bench`, beside nats-server and Centrifugo (needs go, or CENTRIFUGO_BIN for the latter)
	loadtest/bench.sh --peers $(BENCH)

$(TARGET)/venv/done:
	python3 -m venv $(TARGET)/venv
	$(TARGET)/venv/bin/pip install --quiet --disable-pip-version-check "websockets==15.0.1"
	@touch $@

$(TARGET)/node/done:
	npm install --no-audit --no-fund --loglevel=error --prefix $(TARGET)/node "ws@8.18.3"
	@touch $@
