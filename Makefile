# make demo | test | test-all | test-gpu | bench | zoo | mutate | docs | lint
# Each makes its own environment in .venv; PYTHON=/path/to/python uses an existing one instead.
# OLDEST is the oldest triton that must work, laid over the environment for the second interpreter run.
OLDEST := triton==3.6.0 "numpy<2.4"

ifdef PYTHON
  ENVIRONMENT :=
  OVERLAY :=
  GENERATOR :=
  MUTATOR :=
else
  PYTHON := .venv/bin/python
  ENVIRONMENT := .venv/.ready
  OVERLAY := .triton-oldest/.ready
  GENERATOR := .venv/.docs
  MUTATOR := .venv/.mutate
endif
PYTEST := $(PYTHON) -m pytest -q -n auto
INTERPRETED := tests/ops tests/test_masked_layers.py
# On a CPU with AVX-512 these run once more as on one without; the two variables limit oneDNN, torch and our vector code.
AVX2 := ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2
VECTORISED := tests/test_formats.py tests/test_jit.py tests/test_compress.py tests/test_save.py tests/test_warmup.py
CORES := $(shell nproc 2>/dev/null || echo 2)
export OMP_NUM_THREADS ?= $(CORES)

.PHONY: demo test test-all test-gpu bench zoo mutate docs lint environment
.NOTPARALLEL:

demo: environment
	$(PYTHON) -m smart_train demo

test: environment $(OVERLAY) lint
	$(PYTEST) tests bench -m "not gpu and not slow" --benchmark-disable
	$(AVX2) $(PYTEST) $(VECTORISED) -m "not gpu and not slow"
	TRITON_INTERPRET=1 $(PYTEST) $(INTERPRETED) -m "not gpu and not slow"
ifneq ($(OVERLAY),)
	TRITON_INTERPRET=1 PYTHONPATH=.triton-oldest $(PYTEST) $(INTERPRETED) -m "not gpu and not slow"
	PYTHONPATH=.triton-oldest $(PYTEST) tests/test_machine_code.py tests/test_sparse_tensor_core.py -m "not gpu and not slow"
endif

test-all: environment $(OVERLAY) lint
	$(PYTHON) -m tests.everything $(addprefix --oldest ,$(dir $(OVERLAY))) $(foreach part,$(PARTS),--part $(part))

test-gpu: environment
	$(PYTHON) -m pytest -q tests -m gpu
	$(PYTHON) -m bench gpu-check

bench: environment
	$(PYTHON) -m bench layers
	$(PYTHON) -m bench report

# hours on two cores; what has been tried is not tried again
zoo: .zoo/.ready
	nice .zoo/bin/python -m bench zoo

# hours on two cores; what has been tried is not tried again
mutate: environment $(MUTATOR)
	OMP_NUM_THREADS=1 nice -n 19 $(PYTHON) -m tests.mutate

docs: environment $(GENERATOR)
	$(PYTHON) -m pdoc --docformat google --output-directory build/docs smart_kernels smart_train

lint: environment
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

environment: $(ENVIRONMENT)

.venv/.ready: pyproject.toml constraints.txt
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[demo,test]"
	touch $@

.triton-oldest/.ready: .venv/.ready
	.venv/bin/python -m pip install --quiet --no-deps --upgrade --target .triton-oldest $(OLDEST)
	touch $@

.zoo/.ready: pyproject.toml constraints.txt
	python3 -m venv .zoo
	.zoo/bin/python -m pip install --quiet --constraint constraints.txt --editable . torchvision==0.28.0 timm
	touch $@

.venv/.docs: .venv/.ready
	.venv/bin/python -m pip install --quiet --editable ".[docs]"
	touch $@

.venv/.mutate: .venv/.ready
	.venv/bin/python -m pip install --quiet --editable ".[mutate]"
	touch $@
