# Every target sets up what it needs: `make demo` and `make test` work on a fresh machine.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check
SHARED ?= ../shared/data

.PHONY: setup demo test check format bench docs notebooks clean

setup: $(VENV)/.ready

# The order matters: torch first (the CPU build is pinned), then torchrec and fbgemm without their own
# dependencies, which name CUDA builds, then slimtab with the rest.
$(VENV)/.ready: pyproject.toml requirements/torch.txt requirements/torchrec-cpu.txt requirements/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -r requirements/torch.txt
	$(PIP) install -q --no-deps -r requirements/torchrec-cpu.txt
	$(PIP) install -q -c requirements/constraints.txt -e '.[dev]'
	$(PY) -m slimtab doctor
	touch $@

demo: setup  ## raw file → prep → train → compare; DATA=file takes yours, COLUMNS=file says what is in it
	$(PY) examples/demo.py $(if $(DATA),--data $(DATA)) $(if $(COLUMNS),--columns $(COLUMNS))

test: setup
	SLIMTAB_SHARED_DATA=$(abspath $(SHARED)) $(PY) -m pytest -n 2

check: setup
	$(VENV)/bin/ruff check src tests examples data_prep benchmarks docs notebooks
	$(VENV)/bin/ruff format --check src tests examples data_prep benchmarks docs notebooks
	$(VENV)/bin/mypy
	$(VENV)/bin/codespell src examples data_prep benchmarks docs README.md CHANGELOG.md CONTRIBUTING.md

format: setup
	$(VENV)/bin/ruff check --fix src tests examples data_prep benchmarks docs notebooks
	$(VENV)/bin/ruff format src tests examples data_prep benchmarks docs notebooks

bench: setup  ## all benchmarks; peers are installed into environments of their own
	benchmarks/peers/setup.sh
	$(PIP) install -q -r benchmarks/peers/requirements-torchrec.txt
	$(PY) benchmarks/prep.py --fuxictr-python benchmarks/peers/.venv-fuxictr/bin/python
	$(PY) benchmarks/loader.py
	$(PY) benchmarks/train.py
	$(PY) benchmarks/quality.py --shared $(SHARED)
	$(VENV)/bin/slimtab prep criteo $(SHARED)/criteo/train_117k.tsv.gz build/criteo
	$(PY) benchmarks/peers/run.py build/criteo -o build/peers

docs: setup  ## the site, in build/site; a dead link or a page that is not listed fails
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet

notebooks: setup  ## run the notebooks from top to bottom and keep what they show
	cd notebooks && ../$(VENV)/bin/jupyter execute --inplace *.ipynb

clean:
	rm -rf $(VENV) build demo notebooks/work .mypy_cache .ruff_cache .pytest_cache
