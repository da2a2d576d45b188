# Environments under .envs/: openmixup and OpenMMLab 2 need different generations of the package mmcv
# (see README), and OneDL's forks replace the latter. Each is made once, and anew when its
# requirements change.
PYTHON ?= python3
OPENMIXUP := .envs/openmixup/bin/python
OPENMMLAB := .envs/openmmlab/bin/python
ONEDL := .envs/onedl/bin/python
# What `make demo` leaves, and `make demo-dense` starts from.
CLASSIFIER := work_dirs/digits/epoch_12.pth

.PHONY: help demo demo-onnx demo-dense demo-dense-random test test-fast test-onedl test-torch lint \
	openmixup openmmlab onedl clean
help:
	@echo "make demo       train LITv2 through openmixup on handwritten digits (minutes on a CPU)"
	@echo "make demo-onnx  the same LITv2 in onnxruntime (float32, float16, int8) and AOTInductor"
	@echo "make demo-dense detect and segment them with RetinaNet, Mask R-CNN and Semantic FPN, starting"
	@echo "                from that LITv2 (make demo-dense-random: from random weights)"
	@echo "make test       all tests in both environments"
	@echo "make test-fast  the same without trainings"
	@echo "make test-onedl all tests on OneDL's forks, in an environment of their own (.envs/onedl)"
	@echo "make test-torch TORCH=2.4.1: the model's tests in an environment with another torch"
	@echo "make openmixup  set up .envs/openmixup only"
	@echo "make openmmlab  set up .envs/openmmlab only (compiles mmcv's ops)"

demo: openmixup
	$(OPENMIXUP) tools/demo.py

demo-onnx: openmixup $(CLASSIFIER)
	$(OPENMIXUP) tools/demo_deployment.py

demo-dense: openmmlab $(CLASSIFIER)
	$(OPENMMLAB) tools/demo_dense.py

demo-dense-random: openmmlab
	$(OPENMMLAB) tools/demo_dense.py --from-random

$(CLASSIFIER):
	$(MAKE) demo

test: openmixup openmmlab lint
	$(OPENMIXUP) -m pytest
	$(OPENMMLAB) -m pytest

test-fast: openmixup openmmlab lint
	$(OPENMIXUP) -m pytest -m 'not slow'
	$(OPENMMLAB) -m pytest -m 'not slow'

test-onedl: onedl
	$(ONEDL) -m pytest

# The model's own tests with another torch: make test-torch TORCH=2.4.1
test-torch: OLD = .envs/torch-$(TORCH)
test-torch:
	$(PYTHON) -m venv $(OLD)
	$(OLD)/bin/pip install -q torch==$(TORCH) 'numpy<2' timm==1.0.19 -e '.[test]'
	$(OLD)/bin/python -m pytest --ignore tests/openmixup --ignore tests/openmmlab \
		--ignore tests/deployment

lint: openmixup
	.envs/openmixup/bin/ruff check .

openmixup: .envs/openmixup/.done
openmmlab: .envs/openmmlab/.done
onedl: .envs/onedl/.done

.envs/%/.done: requirements/build.txt requirements/%.txt requirements/%.lock setup.py tools/make_env.sh
	tools/make_env.sh $* "$(PYTHON)"
	@touch $@

clean:
	rm -rf .envs data/digits data/digit_scenes work_dirs/digits work_dirs/digit_scenes*
