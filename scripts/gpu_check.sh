#!/usr/bin/env bash
# What a machine with a GPU can show, in recipes/results/gpu.md; see gpu_check.py.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python}" scripts/gpu_check.py "$@"
