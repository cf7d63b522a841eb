# Short names for the usual steps; `make` alone lists them. Everything is built below build/release.
.DEFAULT_GOAL := help
.PHONY: help deps build test demo demo-chat format lint install clean

JOBS ?= $(shell nproc 2> /dev/null || echo 2)
PREFIX ?= /usr/local

help: ## list these targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | awk -F '\t' '{ printf "  make %-9s%s\n", $$1, $$2 }'

deps: ## install the Debian packages that are missing (root or sudo)
	@scripts/install-deps.sh

build: ## configure and build the library, the program and the tests
	cmake --preset release
	cmake --build --preset release --parallel $(JOBS)

test: deps build ## install what is missing, build, run all tests
	ctest --test-dir build/release --output-on-failure

demo: deps build ## fine-tune the bundled base on package descriptions, three ways
	scripts/demo.sh

demo-chat: deps build ## teach the bundled decoder a format, with LoRA and MSPLoRA
	scripts/demo-chat.sh

format: ## format all C++ files
	git ls-files -z '*.cc' '*.h' | xargs -0 -r clang-format -i

lint: ## run clang-tidy over all sources
	cmake --preset release -B build/lint -DMSPLORA_UNITY=OFF > /dev/null
	git ls-files -z 'src/*.cc' 'apps/*.cc' | xargs -0 -r -n 1 -P $(JOBS) clang-tidy -p build/lint --quiet

install: build ## install library, headers and program below PREFIX (default /usr/local)
	cmake --install build/release --prefix $(PREFIX)

clean: ## remove build/release, build/lint and the demos' runs
	rm -rf build/release build/lint build/demo build/demo-chat
