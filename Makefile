# Everything that is done to this repository, by name. `make` alone explains.
# It needs Go and git; the other tools are pinned under hack/tools and built on
# first use, the binaries of the test cluster likewise by test/cluster.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Targets share caches and a cluster: one at a time is faster and readable.
.NOTPARALLEL:

TOOL := hack/tool
# How long `make fuzz` spends on each fuzz target.
FUZZTIME ?= 20s
# How long `make soak` lasts.
SOAK ?= 30m
# What `make bench` runs: a regular expression over benchmark names.
BENCH ?= .
# How many seeds `make sim` runs, and the first one; 0: from the clock.
SEEDS ?= 3000
FIRST ?= 0

##@ Use

.PHONY: help
help: ## show this
	@awk 'BEGIN {FS = ":.*## "; print "Usage: make <target>"} \
		/^##@ / {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "Variables: FUZZTIME=$(FUZZTIME) SOAK=$(SOAK) BENCH=$(BENCH) SEEDS=$(SEEDS) FIRST=$(FIRST) KEEP=1 (demo: leave the cluster running)"
	@echo "           VERSION, PLATFORMS, OUT (images and chart: see hack/images)"

.PHONY: build
build: ## build the commands into bin/, static
	CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/...

.PHONY: images
images: ## build the container images into bin/images, an OCI layout, and their SBOMs into bin/sbom
	hack/images

.PHONY: chart
chart: ## package the Helm chart into bin/, for the images of the same commit
	hack/package-chart

.PHONY: demo
demo: ## tell the story on a real control plane, then clean up (KEEP=1 stays up until Ctrl-C)
	go run ./test/demo

.PHONY: cluster-up
cluster-up: ## start the test cluster, print its kubeconfig's path, stay in the foreground (Ctrl-C or cluster-down ends it)
	go run ./test/cluster up

.PHONY: cluster-down
cluster-down: ## stop the test cluster
	go run ./test/cluster down

##@ Check

.PHONY: test
test: ## go vet and every test: unit tests with the race detector, then those that start a cluster
	hack/test unit cluster

.PHONY: test-unit
test-unit: ## go vet and the tests that start no cluster
	hack/test unit

.PHONY: test-node
test-node: ## all of it as pods on a real node (kubelet, containerd, Kruise): needs Linux, root and apt
	hack/test node

.PHONY: soak
soak: ## let everything go wrong at once for SOAK, with a new seed, and sum up
	go run ./test/cluster build
	CGO_ENABLED=0 go test -trimpath -count=1 -v -timeout 0 -run '^TestChaos$$' ./test/chaos -soak $(SOAK)

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME
	hack/fuzz $(FUZZTIME)

.PHONY: sim
sim: ## run the simulation on SEEDS seeds from FIRST on (0: fresh ones), with a summary, and a story if a promise breaks
	CGO_ENABLED=0 go run ./test/sim/run -first $(FIRST) -seeds $(SEEDS)

.PHONY: bench
bench: ## run the benchmarks that match BENCH
	hack/test bench '$(BENCH)'

.PHONY: lint
lint: ## golangci-lint: bugs, floors of the architecture, style (.golangci.yml)
	$(TOOL) golangci-lint run ./...
	@# Our own programs under hack/tools are modules of their own. They are compiled as
	@# hack/tool does it, so that it is done once.
	@for main in hack/tools/*/main.go; do \
		(cd "$${main%/*}" && set -x && GOWORK=off GOFLAGS=-trimpath CGO_ENABLED=0 ../../../$(TOOL) golangci-lint run ./...); \
	done

.PHONY: verify
verify: ## regenerate everything and demand a clean tree; formatting, go.mod files, protocol lint and compatibility
	hack/verify

##@ Change

.PHONY: generate
generate: ## from proto/ and api/ make Go code, CRDs and the API reference, from config/ the Helm chart, Argo CD's ConfigMap and the PrometheusRule
	cd proto && ../$(TOOL) buf generate
	$(TOOL) controller-gen object paths=./api/... crd output:crd:dir=config/crd/bases
	hack/argocd-cm >config/gitops/argocd/argocd-cm.yaml
	$(TOOL) crd-ref-docs --log-level=ERROR --source-path=api/v1alpha1 --config=hack/api-reference/config.yaml \
		--templates-dir=hack/api-reference --renderer=markdown --output-path=docs/api.md
	$(MAKE) --no-print-directory diagrams
	hack/prometheus-rule >config/monitoring/prometheusrule.yaml
	@# The last one: it is made from all the other manifests.
	$(TOOL) chart hack/chart config/chart

.PHONY: diagrams
diagrams: ## from docs/pictures/*.dot make the pictures of the documentation
	$(TOOL) diagrams docs/pictures

.PHONY: fmt
fmt: ## format Go and proto files
	$(TOOL) golangci-lint fmt
	cd proto && ../$(TOOL) buf format --write

.PHONY: tidy
tidy: ## go mod tidy, the root and every tool of hack/tools
	go mod tidy
	for dir in hack/tools/*/; do (cd "$$dir" && GOWORK=off go mod tidy); done

.PHONY: proto-baseline
proto-baseline: ## at a release: take today's protocol as what must stay compatible
	hack/proto-baseline

.PHONY: tools
tools: ## build all pinned tools now, not on first use
	$(TOOL) --all

.PHONY: clean
clean: ## remove bin/ and stray test output (not the caches: those are keyed and shared)
	rm -rf bin
	find . -name '*.test' -type f -not -path './.git/*' -delete
