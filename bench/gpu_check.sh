#!/bin/sh
# Everything that needs a GPU, in one go and within ten minutes: kernel tests, then speeds, then the
# agreement with the training forward. Needs a python with a CUDA build of torch, and numpy,
# safetensors, tokenizers, rich, pytest, hypothesis, pytest-timeout and pytest-xdist; downloads nothing.
#   bench/gpu_check.sh [results folder] [more arguments of bench/gpu_engine.py]
# A step that fails or hangs does not stop the next one. The summary comes last.
set -u
cd "$(dirname "$0")/.." || exit 2
out=${1:-gpu-results}
[ $# -gt 0 ] && shift
mkdir -p "$out"
python=${PYTHON:-python3}
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1

"$python" - <<'PY' || exit 2
import sys
import torch
if not torch.cuda.is_available():
    sys.exit(f"torch {torch.__version__} sees no CUDA device; run this on a machine with a GPU")
import triton
print(f"torch {torch.__version__}, triton {triton.__version__}, {torch.cuda.get_device_name()}")
PY

# The device tests alone first: a wrong kernel shows here, in seconds.
timeout 150 "$python" -m pytest -q -n 6 -W default -o addopts="--import-mode=importlib" \
  tests/engine/cuda tests/backends/test_placing.py tests/model/test_flash.py \
  >"$out/tests.txt" 2>&1
echo "tests: exit $?" >"$out/summary.txt"
timeout 360 "$python" bench/gpu_engine.py "$@" >"$out/speed.jsonl" 2>"$out/speed.err"
echo "speeds: exit $?" >>"$out/summary.txt"
timeout 60 "$python" bench/agreement.py --device cuda >"$out/agreement.txt" 2>&1
echo "agreement: exit $?" >>"$out/summary.txt"

tail -n 25 "$out/tests.txt"
cat "$out/speed.jsonl"
tail -n 15 "$out/speed.err"
tail -n 8 "$out/agreement.txt"
cat "$out/summary.txt"
