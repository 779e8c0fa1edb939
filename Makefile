# `make demo` and `make test` need nothing but make, a shell and uv, or a python3 to get uv with:
# tools/setup_env.sh builds .venv on the first call and does nothing on the next ones.
#
#     PYTHON=python3.12        use this interpreter
#     MXNET_VARIANT=cpu|gpu    install this build of MXNet
#     EXTRAS="export pytorch"  with these too, for `make env` (and openvino)
#     TORCH_INDEX=URL          PyTorch's build for CPUs from this index or folder; the default
#                              index has that for CUDA, of gigabytes

# Test files that run at a time, one thread each.
TEST_WORKERS ?= 2

# For `make torture`: how many files of each kind are damaged, how often a run is killed. It also
# plants bugs in a copy of the code, TEST_WORKERS at a time, which takes longest.
COUNT = 170
KILLS = 6
SEED = 0

.PHONY: help demo test torture check-gpu study bench lint env env-dev

help:
	@echo "make demo    train ChaATAC on the built-in data set (minutes on a CPU), then evaluate it"
	@echo "make test    run the tests"
	@echo "make torture damage files, kill runs, plant bugs: half an hour (COUNT=5000 KILLS=30 SEED=1)"
	@echo "make check-gpu  train and evaluate in float16 on one or two GPUs, if there are any"
	@echo "make study   train and compare the attention studies, small (DATA_DIR=folder of CIFAR-10)"
	@echo "make bench   measure speed beside PyTorch and the reference's style (ONLY=step,... ROUNDS=3)"
	@echo "make lint    check the code's style"
	@echo "make env     only build .venv"

env:
	@tools/setup_env.sh $(addprefix --extra ,$(EXTRAS))

env-dev:
	@tools/setup_env.sh --dev

demo: env
	.venv/bin/python train_cifar.py --dataset shapes --act-type ChaATAC --blocks 1 \
		--num-epochs 6 --batch-size 64 --lr 0.1 --lr-mode cosine --warmup-epochs 1 \
		--name demo --overwrite
	.venv/bin/python evaluate.py --params params/demo/best.params

test: env-dev
	.venv/bin/python -m pytest -q -n $(TEST_WORKERS) --dist loadfile

torture: env-dev
	.venv/bin/python -m tests.torture.fuzz_params --count $(COUNT) --seed $(SEED)
	.venv/bin/python -m tests.torture.fuzz_files --count $(COUNT) --seed $(SEED)
	.venv/bin/python -m tests.torture.fuzz_images --count $(COUNT) --seed $(SEED)
	.venv/bin/python -m tests.torture.fuzz_onnx --count $(COUNT) --seed $(SEED)
	.venv/bin/python -m tests.torture.fuzz_warden --count $(COUNT) --seed $(SEED)
	.venv/bin/python -m tests.torture.kill_test --kills $(KILLS) --seed $(SEED)
	.venv/bin/python -m tests.torture.mutations --jobs $(TEST_WORKERS)

check-gpu: env
	.venv/bin/python -m tests.torture.check_gpu

lint: env-dev
	.venv/bin/ruff check

# Two studies in a size for small machines: CBAM in ResNet-18, and ResNet-50 plain, SE, CBAM.
STUDY_RUNS = attention-modelresnet18 attention-CBAM-attention-atblock-modelresnet18 \
	attention-CBAM-attention-atclassifier-modelresnet18 attention-modelresnet50-stemconv7 \
	attention-SE-attention-atidentity-modelresnet50-stemconv7 \
	attention-CBAM-attention-atidentity-modelresnet50-stemconv7

study: env
	.venv/bin/python compare.py --grid studies/attention.json --out reports/attention \
		$(if $(DATA_DIR),-- --data-dir $(DATA_DIR))
	.venv/bin/python gradcam.py --run $(STUDY_RUNS) --count 5 \
		--output reports/attention/gallery.png $(if $(DATA_DIR),--data-dir $(DATA_DIR))
	.venv/bin/python compare.py --runs $(addprefix logs/,$(STUDY_RUNS)) \
		--gallery reports/attention/gallery.png --out reports/attention

# Speed, side by side, with PyTorch in an environment of its own; for a machine at rest.
bench:
	@tools/setup_env.sh --dev --extra openvino
	@tools/setup_env.sh --extra pytorch --venv .venv-torch
	.venv/bin/python -m benchmarks.bench $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(DATA_DIR),--data-dir $(DATA_DIR))
