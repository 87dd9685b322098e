# Every target has a help line; `make` prints them.
GO ?= go
BIN := bin
export GOFLAGS ?= -buildvcs=false
# One setting for builds and tests: they share one build cache, and binaries are static.
export CGO_ENABLED ?= 0

.DEFAULT_GOAL := help
.PHONY: help demo test build race race-short vet lint lint-short fuzz bench evaluate up dev test-redis test-connectors test-proxies test-processes test-issue-race images schemas ci clean

help: ## print this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build the lanyard command and every service into bin/
	@mkdir -p $(BIN)
	$(GO) build -o $(BIN)/ ./services/cmd/...

$(BIN)/lanyard: FORCE
	@mkdir -p $(BIN)
	$(GO) build -o $(BIN)/lanyard ./services/cmd/lanyard

FORCE:

demo: $(BIN)/lanyard ## the main job: one revoke cascades end to end, on real input (under a minute after the build)
	$(BIN)/lanyard demo

up: $(BIN)/lanyard ## run everything on this machine with embedded servers, until Ctrl-C
	$(BIN)/lanyard up

test: ## all tests that need only Go
	$(GO) test work

race: ## all tests under the race detector
	CGO_ENABLED=1 $(GO) test -race -short ./events/... ./services/...

race-short: ## the tests of the concurrent parts under the race detector
	CGO_ENABLED=1 $(GO) test -race -short ./events/guard ./services/internal/bus ./services/internal/service ./services/revocation/internal/...

vet: ## go vet
	$(GO) vet work

lint: ## golangci-lint with .golangci.yml (built once into bin/)
	@test -x $(BIN)/golangci-lint || GOWORK=off GOBIN=$(CURDIR)/$(BIN) GOFLAGS=-mod=mod $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
	cd events && ../$(BIN)/golangci-lint run ./...
	cd services && ../$(BIN)/golangci-lint run ./...

lint-short: ## staticcheck alone (built once into bin/), as in ci
	@test -x $(BIN)/staticcheck || GOWORK=off GOBIN=$(CURDIR)/$(BIN) GOFLAGS=-mod=mod $(GO) install honnef.co/go/tools/cmd/staticcheck@v0.8.2
	cd events && ../$(BIN)/staticcheck -checks "all,-ST1000,-ST1003,-ST1022,-S1016,-QF1001,-QF1008" ./...
	cd services && ../$(BIN)/staticcheck -checks "all,-ST1000,-ST1003,-ST1022,-S1016,-QF1001,-QF1008" ./...

fuzz: ## fuzz every decoder, FUZZTIME each (default 10s)
	deploy/fuzz.sh $(or $(FUZZTIME),10s)

bench: $(BIN)/lanyard ## measure against the limits (BENCHMARKS.md says what)
	$(BIN)/lanyard bench all

evaluate: $(BIN)/lanyard ## measure detection against its gates (DATA, default ../shared/data)
	@mkdir -p dist
	$(BIN)/lanyard evaluate --data $(or $(DATA),../shared/data) --out dist/evaluation.json

schemas: ## generate schemas/asyncapi.yaml from the catalogue
	cd events && $(GO) test . -run TestAsyncAPI -update

dev: build ## every service as its own process, real nats-server and redis-server, until Ctrl-C
	deploy/dev.sh

test-connectors: ## connectors and the cascade against real PostgreSQL and Redis (installs Debian's packages when missing)
	deploy/need.sh postgresql redis-server
	cd services && LANYARD_REQUIRE_SERVERS=1 $(GO) test ./connector/... && LANYARD_REQUIRE_SERVERS=1 $(GO) test -run 'TestOneRevoke|TestUnplugged|TestSecretUnder|TestPlacing' ./revocation

test-proxies: ## the guard behind real nginx and Caddy (installs Debian's packages when missing)
	deploy/need.sh nginx caddy
	cd services && LANYARD_REQUIRE_SERVERS=1 $(GO) test -count=1 -run 'TestNginx|TestCaddy' ./guard

test-redis: ## the state tests against a real redis-server (installs it with apt-get when missing)
	deploy/need.sh redis-server
	cd services && $(GO) test -count=1 ./internal/state/...

test-processes: build ## the demo workload on separate processes, with kill -9 of each
	deploy/need.sh redis-server
	cd services && LANYARD_PROCESSES=1 $(GO) test -count=1 -timeout 12m -run TestProcesses ./internal/processtest/...

test-issue-race: ## 100,000 rounds of issue and revoke at the same instant: no token survives
	cd services && LANYARD_RACE_ROUNDS=$(or $(ROUNDS),100000) $(GO) test -count=1 -v -timeout 60m -run TestNoTokenSurvives ./issuance

images: ## static binaries and image contexts in dist/ (built into images where a container engine runs)
	deploy/images.sh

ci: ## what .ci/run runs
	.ci/run

clean: ## remove what the targets made
	rm -rf $(BIN) dist
