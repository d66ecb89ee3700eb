# shellcheck shell=bash
# Sourced by poc/run.sh and tests/run.sh: an environment beside the repository's own files.
# ensure_environment ROOT makes ROOT/.venv when there is none and installs requirements.txt when it
# changed since the last time; afterwards $PYTHON is that environment's interpreter.

find_python() {
  local candidate
  for candidate in "${POLYCLINIC_PYTHON:-}" python3.11 python3.12 python3; do
    if [[ -n "$candidate" ]] && "$candidate" -c \
        'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
        2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "Expected Python 3.11 or 3.12 with venv, got none on the PATH;" \
    "install python3.11 and python3.11-venv, or set POLYCLINIC_PYTHON." >&2
  return 4
}

ensure_environment() {
  local root="$1" wanted stamp python
  PYTHON="$root/.venv/bin/python"
  stamp="$root/.venv/.requirements.sha256"
  if [[ ! -x "$PYTHON" ]]; then
    python="$(find_python)" || return
    echo "making $root/.venv with $("$python" --version)" >&2
    "$python" -m venv "$root/.venv"
  fi
  wanted="$("$PYTHON" -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$root/requirements.txt")"
  if [[ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]]; then
    echo "installing requirements.txt (about two minutes the first time)" >&2
    (cd "$root" && "$PYTHON" -m pip install --quiet --disable-pip-version-check \
      -r requirements.txt </dev/null)
    echo "$wanted" >"$stamp"
  fi
}
