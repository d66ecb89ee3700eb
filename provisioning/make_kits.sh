#!/usr/bin/env bash
# Startup kits from one description:
#   make_kits.sh consortium.yaml OUT [--renew NAME...] [--format json]
# Python is $POLYCLINIC_PYTHON, else the active environment's, else that of .venv beside provisioning.
set -euo pipefail
umask 077
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [[ -n "${POLYCLINIC_PYTHON:-}" ]]; then
  candidates=("$POLYCLINIC_PYTHON")
else
  candidates=(python3 "$(dirname "$here")/.venv/bin/python")
fi
for python in "${candidates[@]}"; do
  if "$python" -c 'import nvflare, polyclinic.errors' 2>/dev/null; then
    exec "$python" "$here/kits.py" "$@"
  fi
done
echo "Expected a Python with polyclinic and nvflare, got none among: ${candidates[*]};" \
  "run poc/run.sh env, or set POLYCLINIC_PYTHON to the python of the environment that" \
  "requirements.txt was installed into (consortium engineer)." >&2
exit 4
