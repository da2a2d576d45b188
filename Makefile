# Environments are made under .envs/ (tools/make_env.sh), each once, and anew when its requirements
# change: .envs/mmlit has everything; the others are for comparisons.
PYTHON ?= python3
MMLIT := .envs/mmlit/bin/python
# Tests side by side; more than a few trainings at once need much memory.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 4 ? n : 4)))
PYTEST := -m pytest -n $(WORKERS) --dist worksteal
FAST := -m 'not slow'
# What `make demo` leaves, and `make demo-dense` starts from.
CLASSIFIER := work_dirs/digits/epoch_12.pth

.PHONY: help env demo demo-onnx demo-dense demo-dense-random test test-fast test-onedl \
	test-compiled test-classic test-torch lint clean
help:
	@echo "make demo       train LITv2 through openmixup on handwritten digits (minutes on a CPU)"
	@echo "make demo-onnx  the same LITv2 in onnxruntime (float32, float16, int8) and AOTInductor"
	@echo "make demo-dense detect and segment them with RetinaNet, Mask R-CNN and Semantic FPN, starting"
	@echo "                from that LITv2 (make demo-dense-random: from random weights)"
	@echo "make test       all tests (make test-fast: those without trainings)"
	@echo "make env        the environment of all these, .envs/mmlit"
	@echo
	@echo "Tests in other environments, each made when first asked for:"
	@echo "make test-onedl    with OneDL's forks of mmcv, mmengine, mmdet and mmseg"
	@echo "make test-compiled with mmcv 2's compiled ops (12 minutes of compiling on 2 cores)"
	@echo "make test-classic  openmixup with mmcv-full 1.7.2 (the same)"
	@echo "make test-torch TORCH=2.4.1  the model alone with another torch"

env: .envs/mmlit/.done

demo: env
	$(MMLIT) tools/demo.py

demo-onnx: env $(CLASSIFIER)
	$(MMLIT) tools/demo_deployment.py

demo-dense: env $(CLASSIFIER)
	$(MMLIT) tools/demo_dense.py

demo-dense-random: env
	$(MMLIT) tools/demo_dense.py --from-random

$(CLASSIFIER):
	$(MAKE) demo

# A process serves one generation of mmcv, so the tests of openmixup run by themselves.
test: lint
	$(MMLIT) $(PYTEST)
	$(MMLIT) $(PYTEST) tests/openmixup

test-fast: lint
	$(MMLIT) $(PYTEST) $(FAST)
	$(MMLIT) $(PYTEST) $(FAST) tests/openmixup

test-compiled: .envs/compiled/.done
	.envs/compiled/bin/python $(PYTEST)

test-classic: .envs/classic/.done
	.envs/classic/bin/python $(PYTEST) tests/openmixup

test-onedl: .envs/onedl/.done
	.envs/onedl/bin/python $(PYTEST)

# The model's own tests with another torch: make test-torch TORCH=2.4.1
test-torch: OLD = .envs/torch-$(TORCH)
test-torch:
	$(PYTHON) -m venv $(OLD)
	$(OLD)/bin/pip install -q torch==$(TORCH) 'numpy<2' timm==1.0.19 -e '.[test]'
	$(OLD)/bin/python -m pytest --ignore tests/openmmlab --ignore tests/deployment

lint: env
	.envs/mmlit/bin/ruff check .

.envs/%/.done: $(wildcard requirements/*) pyproject.toml tools/make_env.sh
	tools/make_env.sh $* "$(PYTHON)"
	@touch $@

clean:
	rm -rf .envs data/digits data/digit_scenes work_dirs/digits work_dirs/digit_scenes*
