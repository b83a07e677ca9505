# A thin layer over pip, pytest and the fedkim command. Every target sets up what it needs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= runs/demo
KEEP ?= 0
PYTEST := $(BIN)/python -m pytest
HERE := not browser and not prometheus and not vllm
YES_NO := lung_opacity,covid19,ecg_abnormal,mortality,enlarged_cardiomediastinum,atelectasis,pleural_effusion,ectopic_beats,sepsis

.PHONY: demo demo-compare test test-fast test-all test-browser test-prometheus test-operations test-flower test-quantised test-vllm docs lint venv clean

venv: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)) and "FedKIM-Ray needs Python 3.11 or 3.12; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,importers]'
	touch $@

demo: venv  ## Data, federation, injection, evaluation, serving: KEEP=1 leaves it serving.
	$(BIN)/fedkim demo --out $(OUT) $(if $(filter-out 0,$(KEEP)),--keep)

demo-compare: venv  ## Is federation worth it? The demo's run against one on public data alone.
	$(BIN)/fedkim data demo $(OUT)/data
	$(BIN)/fedkim compare study demo --variants fedkim,public_only --references logistic_regression,heads,public \
	    --tasks $(YES_NO) --out $(OUT)/compare --set data.root=$(OUT)/data --set evaluation.max_questions=null

test: venv  ## The whole suite but for what needs a browser, Prometheus or vLLM; what starts Ray runs beside the rest.
	@# Ray's workers have a niceness of 15: beside a process without one they would stand still.
	@mkdir -p build
	@$(PYTEST) --durations=40 -m 'ray and $(HERE)' >build/test-ray.txt 2>&1 & ray=$$!; \
	nice -n 19 $(PYTEST) --durations=15 -m 'not ray and $(HERE)'; rest=$$?; \
	echo "Tests that start Ray, from build/test-ray.txt:"; tail --pid=$$ray -n +1 -f build/test-ray.txt; \
	wait $$ray && exit $$rest

test-fast: venv  ## The tests that need no Ray: a minute or two.
	$(PYTEST) -m 'not ray and not slow and not browser and not prometheus and not vllm'

test-all: venv  ## All but vLLM, with ten times as many made-up requests and broken files.
	FEDKIM_FUZZ_TIMES=10 $(PYTEST) -m 'not ray and not vllm'
	$(PYTEST) -m 'ray and not vllm'

test-browser: venv  ## The playground in Debian's Chromium (apt-get install chromium).
	$(PYTEST) -m browser

test-prometheus: venv  ## Rules and dashboards in Debian's Prometheus (apt-get install prometheus).
	$(PYTEST) -m 'prometheus and not slow'

test-operations: venv  ## docs/operations.md's first chapter, word by word (5 to 10 minutes; needs Prometheus).
	$(PYTEST) tests/e2e/test_operations_page.py

test-flower: venv  ## Aggregation against Flower's own, in an environment of its own.
	benchmarks/peers/flower_env.sh build/flower
	FEDKIM_FLOWER_PYTHON=$(CURDIR)/build/flower/bin/python $(PYTEST) tests/peers

test-quantised: venv  ## A base packed to 4 or 8 bits, with bitsandbytes in a folder of its own.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade -c constraints.txt \
	    --target build/quantised bitsandbytes
	PYTHONPATH=$(CURDIR):build/quantised $(PYTEST) tests/injection/test_quantised.py

test-vllm: build/vllm/.installed  ## Real vLLM on CPU, in an environment of its own (3.3 GB).
	build/vllm/bin/python -m pytest tests/serve/vllm

build/vllm/.installed: pyproject.toml constraints.txt requirements-vllm.txt cluster/vllm_env.sh
	PYTHON=$(PYTHON) cluster/vllm_env.sh build/vllm

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: venv  ## docs/tree.md from the modules' own first lines.
	$(BIN)/python docs/make_tree.py

clean:
	rm -rf $(VENV) runs build *.egg-info
