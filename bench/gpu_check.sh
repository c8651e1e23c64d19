#!/usr/bin/env bash
# make gpu-check: everything that only a CUDA device can prove or measure, in stages.
#
#   bench/gpu_check.sh [STAGE | GROUP]...       (make gpu-check STAGES="...")
#
#   correct    info cuda kernels graphs repeat ops   the tests of the GPU's kernels and graphs, two processes bitwise equal
#   speed      steps norms convolutions losses       benches, each with a record: CycleGAN's step, the ops in bfloat16
#   thorough   huge memcheck racecheck suite         more than 2^31 elements, compute-sanitizer, the rest of the tests
#              systems floats                        and of the benches: all steps in all variants, the ops in float32
#   tune                                             the table of measured configurations, for fastgan/tables
#
# Without an argument: all of them, in this order. Each stage has a time of its own. LIMIT bounds the seconds of all
# together, and of each five times tighter: what is under way is then interrupted, and reports what it has. The log, the
# records and the table go to the folder OUT (default bench/results). Runs with PYTHON (default python3), which needs
# torch for CUDA, triton, pytest and hypothesis; without other packages it says what is left out. Installs nothing but
# fastgan itself, and needs no network. The exit status is 0 when every stage passed.
#
# In three calls of ten minutes: LIMIT=560 bench/gpu_check.sh correct; ... speed; ... tune thorough. Where the tree has
# no .git, COMMIT names the commit in the records' file names.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-bench/results}
LIMIT=${LIMIT:-0}
WORKERS=${WORKERS:-$(($(nproc) < 16 ? $(nproc) : 16))}  # compiling is most of what the tests do
PATH=$PATH:/usr/local/cuda/bin

declare -A GROUPS_OF=(
  [correct]="info cuda kernels graphs repeat ops"
  [thorough]="huge memcheck racecheck suite systems floats"
  [speed]="steps norms convolutions losses"
)
KNOWN="info kernels cuda ops repeat graphs huge memcheck racecheck suite steps norms convolutions losses systems floats tune"
stages=()
for name in "${@:-correct speed thorough tune}"; do
  for part in $name; do stages+=(${GROUPS_OF[$part]:-$part}); done
done
for name in "${stages[@]}"; do
  if [[ " $KNOWN " != *" $name "* ]]; then
    echo "error: unknown stage '$name': choose from ${!GROUPS_OF[*]} $KNOWN" >&2
    exit 2
  fi
done

DEVICE=$("$PYTHON" - <<'CODE'
import sys
try:
    import torch
except ImportError:
    sys.exit(f"error: {sys.executable} has no torch; choose an interpreter that has, with PYTHON=...")
if not torch.cuda.is_available():
    sys.exit("error: make gpu-check needs a CUDA device, and torch finds none")
major, minor = torch.cuda.get_device_capability()
name = torch.cuda.get_device_name().lower()
print("-".join("".join(c if c.isalnum() else " " for c in name).split()), f"{major}.{minor}" + "a" * (major == 9))
CODE
) || exit 2
export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-${DEVICE#* }}
DEVICE=${DEVICE% *}
COMMIT=${COMMIT:-$(git rev-parse --short HEAD 2> /dev/null || echo uncommitted)}
STEM="$(date -u +%F)-$DEVICE-$COMMIT"
mkdir -p "$OUT"
LOG="$OUT/gpu-check-$(date -u +%Y%m%d-%H%M%S).log"
SCRATCH=$(mktemp -d)
trap 'rm -rf "$SCRATCH"' EXIT

say() { printf '%s\n' "$*" | tee -a "$LOG"; }
has() { "$PYTHON" -c "import $1" 2> /dev/null; }

failed=0
results=()
note() { results+=("$(printf '%-16s %s' "$1" "$2")"); say "== $1: $2"; }

# run NAME SECONDS COMMAND...: a command within the seconds that it and all stages together have.
run() {
  local name=$1 most=$2 began=$SECONDS; shift 2
  ((LIMIT)) || most=$((5 * most))
  if ((LIMIT && LIMIT - SECONDS - 20 < most)); then most=$((LIMIT - SECONDS - 20)); fi
  if ((most < 20)); then note "$name" "not run: the time is up"; failed=1; return 1; fi
  say "== $name, at most $most s: $*"
  timeout --signal INT --kill-after 20 "$most" "$@" 2>&1 | tee -a "$LOG"
  local status=${PIPESTATUS[0]} took="$((SECONDS - began)) s"
  case $status in
    0) note "$name" "passed in $took" ;;
    124 | 137) note "$name" "INTERRUPTED after $took"; failed=1 ;;
    *) note "$name" "FAILED in $took"; failed=1 ;;
  esac
  return "$status"
}

PARALLEL=()
if has xdist; then PARALLEL=(-n "$WORKERS"); else say "pytest-xdist is missing: tests run one after the other"; fi
if ! has expecttest; then
  say "expecttest is missing: a class of unittest stands in, which is all that torch's sample inputs take from it"
  echo 'from unittest import TestCase' > "$SCRATCH/expecttest.py"
  export PYTHONPATH="$SCRATCH${PYTHONPATH:+:$PYTHONPATH}"
fi
for package in triton pytest hypothesis; do
  has "$package" || { say "error: $PYTHON has no $package"; exit 2; }
done
for package in safetensors tqdm PIL; do
  has "$package" || say "$package is missing: stages that import it will fail (a wheel of it on PYTHONPATH will do)"
done
tests() { local name=$1 most=$2; shift 2; run "$name" "$most" "$PYTHON" -m pytest -q -p no:cacheprovider "$@"; }

# The compiled ops: built where they never were to the end, and where they are older than their sources.
info=fastgan/_build_info.json
if ! has fastgan.kernels || [[ ! -f $info ]] || grep -q "did not finish" $info ||
  [[ -n $(find setup.py csrc -newer $info -print -quit) ]]; then
  run install 400 bash -c '"$@" > "$0" 2>&1' "$OUT/gpu-check-build.log" \
    "$PYTHON" -m pip install -v --no-build-isolation --no-deps --no-index -e .
fi
if ! grep -q '"cuda": "' "$info" 2> /dev/null; then  # their tests are then left out, and a stage of them passes
  note installed "WITHOUT the CUDA kernels: $(tr -d '\n' < "$info")"
  say "$(grep -m 5 -E 'error( |:)' "$OUT/gpu-check-build.log" 2> /dev/null)"
  failed=1
fi

bench() {
  local name=$1 most=$2; shift 2
  if ! has pytest_benchmark; then note "$name" "not run: pytest-benchmark is missing"; failed=1; return; fi
  tests "$name" "$most" "$@" --benchmark --benchmark-budget 0.2 --benchmark-record "$OUT/$STEM-$name.json"
}

sanitize() {
  if ! command -v compute-sanitizer > /dev/null; then note "$1" "not run: compute-sanitizer is not installed"; return; fi
  # Without torch's allocator, every tensor is an allocation whose ends are known.
  run "$1" 240 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --error-exitcode 1 \
    "$PYTHON" -m pytest -q -p no:cacheprovider tests/kernels tests/csrc/test_cuda_conv_transpose2d.py --maxfail 3 \
    -k "repeats_bitwise or chosen_configuration or every_kind or wide_numbers or divide or all_passes or empty"
}

for name in "${stages[@]}"; do
  case $name in
    info) run info 60 "$PYTHON" -m fastgan.info ;;
    kernels) tests kernels 420 "${PARALLEL[@]}" tests/kernels --ignore tests/kernels/test_compile.py ;;
    cuda) tests cuda 240 -rs "${PARALLEL[@]}" tests/csrc/test_cuda_conv_transpose2d.py ;;
    ops) tests ops 480 -rs "${PARALLEL[@]}" -m "not huge" -k "not plain and not cpp and not cpu" \
      tests/ops tests/test_functional.py tests/test_nn.py ;;  # those left out compute on the CPU
    repeat) run repeat 240 bash -c 'for n in 1 2; do "$0" -m tests.ops.digests > "$1/$n" || exit; done
      cat "$1/1"; cmp "$1/1" "$1/2"' "$PYTHON" "$SCRATCH" ;;
    graphs) tests graphs 300 -rs "${PARALLEL[@]}" tests/training/test_graphs.py tests/recipes/test_no_waiting.py \
      tests/data/test_resident.py ;;
    huge) tests huge 240 -rs -m huge tests/ops/test_huge.py ;;
    memcheck | racecheck) sanitize "$name" ;;
    suite) tests suite 480 "${PARALLEL[@]}" tests --ignore tests/kernels --ignore tests/ops --ignore tests/csrc ;;
    steps) bench steps 200 bench/test_steps.py -k "cyclegan and 256x256 and not batch4" \
      --benchmark-variants "channels_last, eager fp32 nchw" ;;
    norms) bench norms 120 bench/test_instance_norm.py bench/test_batch_norm.py -k bfloat16 ;;
    convolutions) bench convolutions 180 bench/test_reflection_pad_conv2d.py bench/test_conv_transpose2d.py \
      -k bfloat16 ;;
    losses) bench losses 40 bench/test_losses.py ;;
    systems) bench systems 400 bench/test_steps.py ;;
    floats) bench floats 300 bench/test_*norm.py bench/test_*conv*.py -k float32 ;;
    tune)
      for dtype in bf16 fp32; do
        run "tune-$dtype" 400 "$PYTHON" -m fastgan.tune --dtype "$dtype" --layout nhwc --output "$OUT/$DEVICE.json"
      done ;;
  esac
done

say ""
for line in "${results[@]}"; do say "$line"; done
say "log: $LOG"
exit $failed
