# The commands of this project. What they do is in scripts/; what they lack they install, after listing it.
#   NO_INSTALL=1   install nothing: go on with what is there
#   DEMO=nbd       the demo without root, devices and mounts
#   ONLY=REGEXP    those end-to-end steps whose file's name fits; KEEP=1 holds the cluster afterwards, until Ctrl-C

.PHONY: help demo test sanity e2e e2e-smoke bench simulate build ok generate clean
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: ## the whole story on this machine, in about a minute
	@scripts/install-missing demo
	@scripts/demo

test: ## every test that needs no Kubernetes and no Go; SUITE=NAME for one suite
	@scripts/test $(if $(SUITE),'$(SUITE)')

sanity: ## the CSI project's own csi-sanity against the driver
	@scripts/sanity

e2e: ## on a real Kubernetes: kind where there is a docker, else from binaries; builds those first (half an hour, once)
	@scripts/install-missing e2e
	@scripts/e2e full $(if $(ONLY),--only '$(ONLY)') $(if $(KEEP),--keep)

e2e-smoke: ## the shortest of it: one node, one volume, one crash
	@scripts/install-missing e2e
	@scripts/e2e smoke $(if $(KEEP),--keep)

bench: ## side by side with nbdkit and qemu-nbd
	@scripts/install-missing bench
	@bench/run

simulate: ## the engine against its model under faults; SEEDS=N runs, 2000 unless given
	@scripts/install-missing build
	@SEEDS='$(SEEDS)' scripts/simulate

build: ## dist/, from which bin/volumedriver-csi and bin/vdctl run
	@scripts/install-missing build

ok: ## what a change must pass before it is committed: format, lint, types, unit tests
	@scripts/install-missing build
	@scripts/with-node npm run ok

generate: ## src/api/generated from proto/
	@scripts/install-missing build
	@scripts/generate-proto

clean: ## removes what was built
	@rm -rf dist dist.new.* coverage node_modules/.cache
