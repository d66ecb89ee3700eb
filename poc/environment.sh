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

requirements_hash() {
  "$PYTHON" -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$1/requirements.txt"
}

environment_ready() {
  [[ -x "$PYTHON" && -f "$STAMP" ]] && [[ "$(cat "$STAMP")" == "$(requirements_hash "$1")" ]]
}

install_environment() {
  local root="$1" python
  # pip may lack where an earlier run was stopped half-way.
  if [[ ! -x "$PYTHON" ]] || ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
    python="$(find_python)" || return
    echo "making $root/.venv with $("$python" --version)" >&2
    "$python" -m venv "$root/.venv" || return
  fi
  echo "installing requirements.txt (about two minutes the first time)" >&2
  (cd "$root" && "$PYTHON" -m pip install --quiet --disable-pip-version-check \
    -r requirements.txt </dev/null) || return
  requirements_hash "$root" >"$STAMP"
}

ensure_environment() {
  local root="$1" failed=0
  PYTHON="$root/.venv/bin/python"
  STAMP="$root/.venv/.requirements.sha256"
  environment_ready "$root" && return
  # Ctrl-C: pip ends with a code of its own; ours is that of an interrupted program.
  trap 'echo interrupted >&2; exit 130' INT
  mkdir -p "$root/.venv"
  # Two installations at once would tear each other's files.
  exec 9>"$root/.venv/.lock"
  if command -v flock >/dev/null && ! flock -n 9; then
    echo "waiting for another installation in $root/.venv" >&2
    flock 9
  fi
  environment_ready "$root" || install_environment "$root" || failed=$?
  exec 9>&-
  trap - INT
  return "$failed"
}
