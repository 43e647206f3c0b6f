# What there is to do here. `make help` lists it.

# The root module comes last: its tests are the most, and their result is what
# a run ends with.
MODULES := bench adapters/gin examples .
GOBIN   := $(CURDIR)/.bin
LINT    := $(GOBIN)/golangci-lint
LINT_VERSION := v2.15.0

# Tests start real servers, several at a time; two packages at once are enough
# for two cores.
TEST_FLAGS := -race -shuffle=on -count=1 -p 2 -timeout 15m

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

.PHONY: test
test: deps build vet lint budgets race ## everything that must hold: install what is missing, vet, lint, budgets, race tests of every module

.PHONY: deps
deps: ## install redis-server if it is missing
	@./scripts/install-redis

.PHONY: build
build: ## compile every module
	@for m in $(MODULES); do echo "build $$m"; (cd $$m && go build ./...) || exit 1; done

.PHONY: vet
vet: ## go vet in every module
	@for m in $(MODULES); do echo "vet $$m"; (cd $$m && go vet ./...) || exit 1; done

.PHONY: lint
lint: $(LINT) ## golangci-lint in every module
	@for m in $(MODULES); do echo "lint $$m"; (cd $$m && $(LINT) run --config $(CURDIR)/.golangci.yml ./...) || exit 1; done

.PHONY: fmt
fmt: $(LINT) ## format the code as the linter wants it
	@for m in $(MODULES); do (cd $$m && $(LINT) fmt --config $(CURDIR)/.golangci.yml ./...) || exit 1; done

$(LINT):
	@echo "install golangci-lint $(LINT_VERSION)"
	@GOBIN=$(GOBIN) GOFLAGS= go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)

# The race detector allocates itself, so that these tests only print what they count
# where it is on.
.PHONY: budgets
budgets: ## what a request may allocate, counted without the race detector
	@go test -count=1 -run '^TestAllocations' ./session ./responsecache

.PHONY: race
race: ## race tests of every module, on real Redis servers that they start themselves
	@for m in $(MODULES); do echo "test $$m"; (cd $$m && go test $(TEST_FLAGS) ./...) || exit 1; done

.PHONY: cover
cover: deps ## test coverage of the root module, as coverage/index.html
	@mkdir -p coverage
	@go test -count=1 -p 2 -coverpkg=./... -coverprofile=coverage/profile.out ./...
	@go tool cover -func=coverage/profile.out | tail -n 1
	@go tool cover -html=coverage/profile.out -o coverage/index.html

# BENCH is full, quick (some minutes) or smoke (shows that it runs); ONLY is how
# the names of scenarios begin that are measured anew: ONLY=session, ONLY='page|lock'.
BENCH ?= full
ONLY  ?=
# AWAKE=0 lets processors sleep that nobody wants: see bench/awake_test.go.
AWAKE ?= 1
# smoke's figures mean nothing, and are not kept.
BENCH_DOCS := $(if $(filter smoke,$(BENCH)),,$(CURDIR)/docs)

.PHONY: bench
bench: deps ## side by side with other libraries, into docs/benchmarks.md; BENCH=quick is faster, ONLY=session is a part
	@cd bench && HERDLESS_BENCH=$(BENCH) HERDLESS_BENCH_AWAKE=$(AWAKE) HERDLESS_BENCH_DOCS=$(BENCH_DOCS) go test -run '^$$' -bench '^BenchmarkPeers$$/^($(ONLY))' -benchtime 1x -timeout 3h .

.PHONY: bench-lock
bench-lock: deps ## locks alone, in more detail, with prototypes of other designs
	@cd bench && HERDLESS_BENCH_AWAKE=$(AWAKE) go test -run '^$$' -bench '^BenchmarkLock' .

.PHONY: soak
soak: deps ## the tests over and over, for half an hour: SOAK=2h make soak
	@./scripts/soak "$${SOAK:-30m}"

.PHONY: conformance
conformance: deps ## the public suites of every Store, on memory and on real Redis, printed rule by rule
	@go test -count=1 -v -run '^Test(MemoryStore|MemoryPermitStore|Store|StoreInSeveralSlots|PermitStore|StoreQuorum|ServeMux|Conformance)$$' ./session/... ./lock/... ./cache/... ./responsecache ./middleware/ratelimit/... ./middleware/traffic/... ./adapters/adaptertest
	@cd adapters/gin && go test -count=1 -v -run '^Test(Responsecache)?Conformance$$' .

.PHONY: clean
clean: ## remove what the targets made
	@rm -rf .bin coverage
