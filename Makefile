# make run: the workflow with config/config.yaml.  make test, make lint: what .ci/run calls, too.
# make slurm: what `make run` installs, and what a SLURM cluster needs beside it.
# make cluster: the workflow through a SLURM that it starts; root, slurm-wlm and munge are needed.
# make faults: kills, full disks, damage and more, many times: an hour; writes docs/faults.md.
# make viewers: what napari's reader and another validator make of our OME-Zarr, in an environment of their own.
# make lock: resolve the lock files anew.  make sbom: list what they install, with hashes and licences.
# make clean: remove environments and caches, never results/.
.POSIX:
.SILENT:
.PHONY: run test slurm cluster faults viewers lint style types lock sbom clean

PYTHON = python3
VENV = .venv
ENTER = . $(VENV)/bin/activate
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check
# pip would compile all packages with one processor; some hold files that cannot be compiled, and are never imported.
INSTALL = $(PIP) install -qq --no-compile
COMPILE = $(VENV)/bin/python -W ignore -m compileall -qq -j 0 $(VENV)/lib || true

run: $(VENV)/.installed
	$(ENTER) && snakemake --cores 8 --resources gpu=1

test: $(VENV)/.installed-dev
	$(ENTER) && OMP_NUM_THREADS=1 pytest -q -n auto

slurm: $(VENV)/.installed $(VENV)/.installed-slurm

cluster: $(VENV)/.installed-dev
	$(ENTER) && OMP_NUM_THREADS=1 pytest -q -m cluster -n 3 --dist loadfile tests/cluster

faults: $(VENV)/.installed-dev
	$(ENTER) && UNETPIPE_FAULTS_TABLE=docs/faults.md OMP_NUM_THREADS=1 pytest -q -m 'faults or not faults' \
		-n $$(($$(nproc) + 1)) tests/faults

viewers: $(VENV)/.installed-dev .venv-viewers/.installed
	$(ENTER) && pytest -q tests/test_viewers.py

lint: style types

style: $(VENV)/.installed-dev
	$(ENTER) && ruff check --quiet
	$(ENTER) && ruff format --check --quiet
	$(ENTER) && snakefmt --check workflow
	$(ENTER) && snakemake --lint

types: $(VENV)/.installed-dev
	$(ENTER) && mypy

# The CUDA packages where a driver answers; they also serve where the package index offers no CPU build of torch.
$(VENV)/.installed: $(VENV)/.packages $(VENV)/.compiled
	touch $@

$(VENV)/.packages: requirements-cpu.lock requirements-cuda.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"unetpipe needs Python 3.11 or later, $(PYTHON) is %d.%d: make PYTHON=python3.11" % sys.version_info[:2])'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	lock=requirements-cpu.lock; \
	if nvidia-smi >/dev/null 2>&1; then lock=requirements-cuda.lock; \
	elif test "$$(uname)" = Linux && ! $(PIP) index versions torch 2>/dev/null | grep -q '+cpu'; then \
		echo "no CPU build of torch at the package index: the CUDA build serves, its download is several GB"; \
		lock=requirements-cuda.lock; \
	fi; \
	echo "installing $$lock into $(VENV): some minutes"; \
	$(INSTALL) --require-hashes -r $$lock
	$(COMPILE)
	$(INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.compiled: $(VENV)/.packages
	$(VENV)/bin/python -m unetpipe.kernels
	touch $@

$(VENV)/.installed-slurm: $(VENV)/.packages requirements-slurm.lock
	$(INSTALL) --require-hashes -r requirements-slurm.lock
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-slurm $(VENV)/.compiled requirements-dev.lock
	$(INSTALL) --require-hashes -r requirements-dev.lock
	$(COMPILE)
	touch $@

.venv-viewers/.installed: tests/viewers.txt
	$(PYTHON) -m venv --clear .venv-viewers
	.venv-viewers/bin/python -m pip --disable-pip-version-check install -qq --no-compile --no-deps -r tests/viewers.txt
	touch $@

lock:
	.ci/lock $(UPGRADE)

sbom: $(VENV)/.installed
	for lock in cpu cuda slurm dev; do $(VENV)/bin/python .ci/sbom.py requirements-$$lock.lock >sbom-$$lock.json; done

clean:
	rm -rf $(VENV) .venv-viewers .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find unetpipe tests benchmarks workflow -name __pycache__ -prune -exec rm -rf {} +
