#!/usr/bin/env bash
# The whole test suite, or a part:  tests/run.sh [unit|data|live|all] [pytest options]
#   gates  ruff, ruff format, mypy --strict, import-linter
#   unit   gates, then every test that needs neither a federation nor the development data
#   data   tests on the development data sets (../shared/data; skipped with a reason when absent)
#   live   tests that start a real federation on loopback, in a network of their own when possible
#   all    everything (the default)
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=poc/environment.sh
source "$root/poc/environment.sh"

part="${1:-all}"
[[ $# -gt 0 ]] && shift
case "$part" in
  gates | unit | data | live | all) ;;
  *)
    echo "Expected gates, unit, data, live or all, got '$part'." >&2
    exit 4
    ;;
esac

ensure_environment "$root"
cd "$root"
bin="$root/.venv/bin"
# One thread for every library: two workers share two cores, and sums keep one order.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

gates() {
  "$bin/ruff" check .
  "$bin/ruff" format --check .
  "$bin/mypy"
  "$bin/lint-imports"
}

results="$(mktemp -d)"
trap 'rm -rf "$results"' EXIT
failed=0

run_pytest() { # NAME OPTIONS...
  local name="$1"
  shift
  "$PYTHON" -m pytest --junit-xml "$results/$name.xml" "$@" || failed=1
}

case "$part" in
  gates) gates ;;
  unit)
    gates
    run_pytest unit -n 2 -m "not live and not data" "$@"
    ;;
  data) run_pytest data -n 2 -m "data and not live" "$@" ;;
  live) run_pytest live -m live "$@" ;;
  all)
    gates
    run_pytest unit -n 2 -m "not live" "$@"
    # Alone on the machine: these tests have deadlines.
    run_pytest live -m live "$@"
    "$PYTHON" "$root/tests/summary.py" "$results"/*.xml
    ;;
esac
exit "$failed"
