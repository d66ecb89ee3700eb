#!/usr/bin/env bash
# From nothing to a report, on one machine:
#   ./poc/run.sh          all of the steps below, then stop and clean
#   ./poc/run.sh all tumours   the same with outlines of tumours instead of five kinds of data
#   ./poc/run.sh env      environment in .venv, from requirements.txt
#   ./poc/run.sh data     three generated hospitals: DICOM, PNG, NIfTI, SVS and CSV files;
#                         'data tumours': scans with masks
#   ./poc/run.sh up       nvflare poc: a server and three sites on loopback
#   ./poc/run.sh submit   the job fedmm_plus_five_kinds, or fedmepd_demo
#   ./poc/run.sh watch    its rounds as they come
#   ./poc/run.sh report   download the result, compare with local training, write report.html
#   ./poc/run.sh down     stop
#   ./poc/run.sh clean    stop, and remove all but report.html, the result and the log
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=poc/environment.sh
source "$here/environment.sh"

step="${1:-all}"
case "$step" in
  all | env | data | up | submit | watch | report | down | clean) ;;
  -h | --help | help)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
    exit 0
    ;;
  *)
    echo "Expected all, env, data, up, submit, watch, report, down or clean, got '$step'." >&2
    exit 4
    ;;
esac

ensure_environment "$(dirname "$here")"
[[ "$step" == env ]] && exit 0
exec "$PYTHON" "$here/steps.py" "$step" "${@:2}"
