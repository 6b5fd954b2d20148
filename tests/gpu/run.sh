#!/usr/bin/env bash
# What needs an accelerator, in five parts, each bounded, with results written as it goes:
#   a  the tests marked gpu: every family, precision and drafter against the base on the device
#   b  the benchmark at 7B shapes with random weights
#   c  the built-in model's table
#   d  training steps at 7B shapes
#   e  a decoder layer at 7B shapes in all the ways to run it
# usage: tests/gpu/run.sh OUT      ONLY=a,b for some parts; WHEELS=DIR for packages that are missing
# Without an accelerator the same parts run at tiny sizes. Needs no network.
set -uo pipefail
cd "$(dirname "$0")/../.."
OUT=${1:?usage: tests/gpu/run.sh OUT}
ONLY=${ONLY:-a,b,c,d,e}
WHEELS=${WHEELS:-build/gpu-wheels}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
SUMMARY=$OUT/summary.txt
: > "$SUMMARY"

say() { echo "$*" | tee -a "$SUMMARY"; }

# The environment of `make`, or the machine's own Python and, in a folder, the packages it lacks.
find_python() {
    if [ -n "${PYTHON:-}" ]; then return; fi
    PYTHON=$PWD/.venv/bin/python
    if "$PYTHON" -c 'import torch, twigkit' 2> "$OUT/setup.txt"; then return; fi
    PYTHON=$(command -v python3)
    local site=$PWD/build/gpu-site wanted=()
    for pair in pydantic:pydantic pydantic_core:pydantic-core annotated_types:annotated-types \
        typing_inspection:typing-inspection typing_extensions:typing-extensions pytest:pytest \
        iniconfig:iniconfig pygments:pygments packaging:packaging pluggy:pluggy PIL:pillow \
        yaml:pyyaml setuptools:setuptools; do
        "$PYTHON" -c "import ${pair%%:*}" 2> /dev/null || wanted+=("${pair##*:}")
    done
    {
        if [ ${#wanted[@]} -gt 0 ]; then
            "$PYTHON" -m pip install --quiet --no-deps --no-index --find-links "$WHEELS" \
                --upgrade --target "$site" "${wanted[@]}"
        fi
        # Entry points are found where the package is installed.
        PYTHONPATH=$site "$PYTHON" -m pip install --quiet --no-deps --no-build-isolation \
            --no-index --upgrade --target "$site" .
    } >> "$OUT/setup.txt" 2>&1
    export PYTHONPATH=$PWD:$site
}

find_python
if ! "$PYTHON" -c 'import torch, twigkit' 2>> "$OUT/setup.txt"; then
    say "setup failed; see setup.txt (make gpu-wheels fills $WHEELS)"
    exit 1
fi
CUDA=$("$PYTHON" -c 'import torch; print(int(torch.cuda.is_available()))')
BENCH=("$PYTHON" -m twigkit bench --threads 1)
SHAPE=("${BENCH[@]}" --preset llava-1.5-7b --random-weights)
if [ "$CUDA" = 1 ]; then
    DEVICE=cuda
    SIZE=(--max-new-tokens 256 --rounds 1)
    DEMO=(--device cuda --quick --max-new-tokens 128)
    STEPS=3
    SLOW=1
else
    DEVICE=cpu
    SIZE=(--tiny --max-new-tokens 6 --rounds 1)
    DEMO=(--quick --max-new-tokens 4)
    STEPS=1
    SLOW=5 # a machine that does other work too
fi
say "device: $DEVICE; $("$PYTHON" -c 'import torch, transformers as t; print("torch", torch.__version__, "transformers", t.__version__)')"

FAILED=0
part() { # part NAME SECONDS COMMAND...
    local name=$1 limit=$(($2 * SLOW)) started=$SECONDS
    shift 2
    case ",$ONLY," in *",$name,"*) ;; *) return ;; esac
    # An interrupted pytest still says what failed; a terminated one does not.
    timeout --signal INT --kill-after 15 "$limit" "$@" > "$OUT/$name.txt" 2>&1
    local code=$?
    [ $code = 0 ] || FAILED=1
    say "$name: exit $code after $((SECONDS - started)) s (limit $limit s); $name.txt"
}

# Over several processes, where the machine has many cores; each takes one test after the other, or
# one process would have all of those that train, which take longest and come first.
SPREAD=()
WORKERS=$(($(nproc) - 2))
if [ "$WORKERS" -gt 14 ]; then WORKERS=14; fi
if [ "$WORKERS" -ge 4 ] && "$PYTHON" -c 'import xdist' 2> /dev/null; then SPREAD=(-n "$WORKERS" --maxschedchunk 1); fi
# Only files with such tests: others need packages that a machine with a GPU may lack.
MARKED=$(grep -rl --include='test_*.py' 'mark\.gpu' tests/gpu tests/unit)
part a 150 env OMP_NUM_THREADS=1 "$PYTHON" -m pytest -q -p no:cacheprovider "${SPREAD[@]}" --device "$DEVICE" -m gpu ${TESTS:-$MARKED}
part b 120 "${SHAPE[@]}" "${SIZE[@]}" --parts decoding,prefill,batches --synthetic-acceptance 3.5 --out "$OUT/b"
part c 100 "${BENCH[@]}" "${DEMO[@]}" --out "$OUT/c"
part d 60 "${SHAPE[@]}" "${SIZE[@]}" --parts training --training "$STEPS" --out "$OUT/d"
part e 60 "${SHAPE[@]}" "${SIZE[@]}" --parts layers --out "$OUT/e"
exit $FAILED
