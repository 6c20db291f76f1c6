#!/usr/bin/env bash
# Everything that only a GPU shows, in at most ten minutes: JSON on stdout and in $OUT/gpu.json. --dry tries it on a CPU.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" benchmarks/gpu.py "$@"
