# Every job of the project, by one name each; bare `make` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export SHARDWRIGHT_CACHE ?= $(HOME)/.cache/shardwright
# Headers for ggml's Vulkan backend; hack/bootstrap.sh puts them there.
export VULKAN_SDK := $(SHARDWRIGHT_CACHE)/vulkan-sdk-1.4.309.0
export CARGO_TERM_COLOR ?= auto
BIN := target/debug
PART := hack/part.sh

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Use it

.PHONY: demo
demo: build ## Control plane, operator, three agents, one split model, one streamed answer (KEEP=1 stays, PROMPT='…' asks something else)
	@$(PART) demo hack/demo.sh

.PHONY: demo-stop
demo-stop: ## End a demo that KEEP=1 left running
	@hack/demo.sh stop

.PHONY: control-plane
control-plane: bootstrap ## A bare kube-apiserver and etcd; prints the KUBECONFIG
	cargo run -q -p localplane -- --dir .demo up

##@ Build

.PHONY: bootstrap
bootstrap: ## Packages, Vulkan headers, kube-apiserver, kubectl, helm, the model: each once, into the cache
	@$(PART) bootstrap hack/bootstrap.sh

.PHONY: build
build: bootstrap ## All executables
	@$(PART) build cargo build --workspace --bins --locked

.PHONY: generate
generate: ## Custom resource definitions from the Rust types, the page of devices from its tables
	cargo run -q -p crds --bin crdgen -- charts/shardwright/crds
	cargo run -q -p device --example compatibility > target/gpu-compatibility.md
	mv target/gpu-compatibility.md docs/gpu-compatibility.md

##@ Check

.PHONY: test
test: bootstrap ## Everything that must pass before a change lands
	@$(PART) test-build cargo test --workspace --locked --no-run
	@$(PART) test-build-bins cargo build --workspace --bins --locked
	@$(PART) test-run cargo test --workspace --locked
	@$(PART) lint $(MAKE) --no-print-directory lint
	@$(PART) summary

.PHONY: test-long
test-long: bootstrap ## What takes too long for every change: 100,000 random placements, twice, against brute force; every crash point, 60 of them on a real API server; 20,000 seeds; an operator killed for a day; every fault of processes, links and the control plane under a whole installation
	ORACLE_CASES=100000 cargo test -p placement --locked --test core --test oracle
	CRASH_POINTS=all SEEDS=0..20000 cargo test -p simulation --locked --test crash_points --test seeds -- --nocapture
	HOURS=24 cargo test -p simulation --locked --test coming_and_going
	REPLAYS=60 cargo test -p simulation --locked --test real_api_server -- --nocapture --test-threads=1
	cargo test -p tests --locked --test end_to_end -- --ignored --nocapture

.PHONY: lint
lint: bootstrap ## Format, clippy, generated files, chart, licences and sources of dependencies
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo run -q -p crds --bin crdgen -- --check charts/shardwright/crds
	$(SHARDWRIGHT_CACHE)/kubectl-1.37.1-helm-4.3.1/helm lint --strict charts/shardwright
	hack/bootstrap.sh deny
	cargo fetch -q --locked # cargo-deny looks at other platforms' crates, too, which no build here has asked for
	$(SHARDWRIGHT_CACHE)/cargo-deny-0.20.2/bin/cargo-deny --offline check bans licenses sources

.PHONY: coverage
coverage: bootstrap ## Lines that the tests reach, of each crate and file, three quarters of an hour: fails below 95 % (ARGS=--report: of the last run)
	hack/bootstrap.sh coverage
	hack/coverage/coverage.py $(ARGS)

.PHONY: mutants
mutants: bootstrap ## Small faults put into what decides, some eighty of each part, an hour or two: fails where tests find less than 70 % (ARGS=--all: every one; ARGS=gguf: one part)
	hack/bootstrap.sh mutants
	PATH="$(SHARDWRIGHT_CACHE)/cargo-mutants-27.1.0/bin:$$PATH" hack/mutants/mutants.py $(ARGS)

.PHONY: test-devices
test-devices: bootstrap ## One suite for every kind of device: a table of test x backend, each pass or skipped and why
	@mkdir -p target && cargo test -q -p device --locked --test conformance --no-run
	@outcome=0; cargo test -p device --locked --test conformance -- --nocapture --test-threads=1 \
		> target/test-devices.log 2>&1 || outcome=$$?; \
	awk -f hack/device-matrix.awk target/test-devices.log || outcome=1; \
	[ $$outcome = 0 ] || { grep -A3 -h panicked target/test-devices.log; echo "see target/test-devices.log"; exit $$outcome; }

.PHONY: test-openai
test-openai: build ## The official OpenAI client against a running stack
	cargo test -p tests --locked --test end_to_end the_official_openai_client

.PHONY: chaos
chaos: build ## Kill and freeze parts of a whole installation under load, and check every answer: target/bench/chaos.json (SECONDS=240, KILLS=100, SEED=1)
	$(BIN)/chaos --seed $(or $(SEED),1) --seconds $(or $(SECONDS),$(if $(KILLS),86400,240)) $(if $(KILLS),--kills $(KILLS))

.PHONY: soak
soak: build ## The same with a fault every 30 s, and nothing may grow: target/bench/soak.json (MINUTES=30, SEED=1)
	$(BIN)/chaos --seed $(or $(SEED),1) --seconds $$(( $(or $(MINUTES),30) * 60 )) --every-seconds 30 --dir target/soak --name soak

.PHONY: bench
bench: build ## Everything that has a bar, against llama.cpp on this machine, some ten minutes: target/bench/engine.json (BENCH='--only hop --rounds 1')
	cargo build -q --workspace --example hop --locked
	$(BIN)/bench-engine $(BENCH)

.PHONY: bench-devices
bench-devices: build ## Devices ready, read and copied, on fake cards, two minutes: target/bench/devices.json
	$(BIN)/bench-devices

.PHONY: bench-placement
bench-placement: ## Placement beside CP-SAT, HiGHS and others' rules, twenty minutes: target/bench/placement.json (BENCH='--cap 5 --filter 12x64')
	hack/bootstrap.sh packages solvers
	cargo build -q -p solvers --locked
	$(BIN)/bench-placement --python $(SHARDWRIGHT_CACHE)/python-$$(sha256sum bench/placement/peers/requirements.txt | cut -c1-12)/bin/python $(BENCH)

.PHONY: bench-operator
bench-operator: ## The operator with 1,000 nodes of eight devices and 100 models, some eight minutes: target/bench/operator.json (BENCH='--nodes 50 --models 5')
	hack/bootstrap.sh controlplane clients
	cargo build -q --workspace --bin shardwright-operator --bin bench-operator --locked
	$(BIN)/bench-operator $(BENCH)

.PHONY: bench-prediction
bench-prediction: build ## Predicted beside measured time of a token, for ten cuts over three devices, a quarter of an hour: target/bench/prediction.json
	$(BIN)/bench-prediction

.PHONY: fmt
fmt: ## Format the code
	cargo fmt --all

.PHONY: clean
clean: ## Remove what was built here; the cache outside the tree stays
	rm -rf target .demo
