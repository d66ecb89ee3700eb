#!/usr/bin/env bash
# Startup kits from one description: make_kits.sh consortium.yaml OUT [--renew NAME...]
set -euo pipefail
umask 077
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
exec "${PYTHON:-python3}" "$here/kits.py" "$@"
