#!/usr/bin/env bash
# make gpu-check: everything that only a CUDA device can prove, in one command.
#
# Runs with the interpreter in PYTHON (default python3), which has torch for CUDA, triton, pytest, hypothesis and
# pytest-benchmark; installs nothing but fastgan itself. Each stage runs whatever became of the one before; the log and the
# bench record go to OUT (default bench/results). The exit status is 0 when every stage passed.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-bench/results}
mkdir -p "$OUT"
LOG="$OUT/gpu-check-$(date -u +%Y%m%d-%H%M%S).log"

"$PYTHON" - <<'CODE' || exit 2
import sys
try:
    import torch
except ImportError:
    sys.exit(f"error: {sys.executable} has no torch; choose an interpreter that has, with make gpu-check PYTHON=...")
if not torch.cuda.is_available():
    sys.exit("error: make gpu-check needs a CUDA device, and torch finds none")
print(torch.cuda.get_device_name(), "torch", torch.__version__)
CODE

failed=0
stage() {
  local name=$1; shift
  printf '\n== %s: %s\n' "$name" "$*" | tee -a "$LOG"
  local began=$SECONDS
  if "$@" 2>&1 | tee -a "$LOG"; then
    printf '== %s: passed in %d s\n' "$name" $((SECONDS - began)) | tee -a "$LOG"
  else
    printf '== %s: FAILED after %d s\n' "$name" $((SECONDS - began)) | tee -a "$LOG"
    failed=1
  fi
}

stage install "$PYTHON" -m pip install --quiet --no-build-isolation --no-deps -e .
stage info "$PYTHON" -m fastgan.info
stage kernels "$PYTHON" -m pytest -q tests/kernels --ignore tests/kernels/test_compile.py
stage csrc "$PYTHON" -m pytest -q -rs tests/csrc/test_cuda_conv_transpose2d.py
stage ops "$PYTHON" -m pytest -q tests/ops tests/test_functional.py tests/test_nn.py
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck; do
    stage "$tool" compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "$PYTHON" -m pytest -q tests/kernels --ignore tests/kernels/test_compile.py -k "not hypothesis" --maxfail 3
    stage "$tool-csrc" compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "$PYTHON" -m pytest -q tests/csrc/test_cuda_conv_transpose2d.py -k "all_passes or empty" --maxfail 3
  done
else
  printf '\n== compute-sanitizer is not installed: memcheck and racecheck are left out\n' | tee -a "$LOG"
fi
stage bench "$PYTHON" -m pytest bench --benchmark
stage bench-cuda env FASTGAN_BACKEND=conv_transpose2d=cuda "$PYTHON" -m pytest bench --benchmark -k conv_transpose2d
printf '\nlog: %s\n' "$LOG"
exit $failed
