# Sourced by quickstart.sh and run_tests.sh: makes .venv with the tested versions, once.
# Sets PYTHON. An activated environment is not used; set PYTHON to use it.

# Run a command. Ctrl-C and SIGTERM end it: one line, then exit with 130 and 143.
step() {
  trap 'stop 130' INT
  trap 'stop 143' TERM
  trap 'stop 129' HUP
  "$@" &  # in the background, where the shell makes it ignore Ctrl-C
  local status=0
  wait "$!" || status=$?
  trap - INT TERM HUP
  return "$status"
}

# End the command of step, wait until it has saved what it has, and exit with a status.
stop() {
  trap '' INT TERM HUP
  kill "$!" 2> /dev/null || true
  wait "$!" 2> /dev/null || true
  echo "Stopped. The same command continues." >&2
  exit "$1"
}

setup() {
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  if [ -n "${PYTHON:-}" ]; then
    return
  fi
  PYTHON="$PWD/.venv/bin/python"
  local stamp=".venv/semmae-$(cksum requirements/lock.txt setup.cfg setup.py | cksum | cut -d ' ' -f 1)"
  if [ ! -e "$stamp" ]; then
    local base="${BASE_PYTHON:-python3}"
    "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
      echo "semmae's tested versions need Python 3.11, got $("$base" --version); set BASE_PYTHON" >&2
      exit 2
    }
    echo "== Installing into .venv (PyTorch with its GPU libraries: 5 GB on disk, two to five minutes)"
    [ -x .venv/bin/pip ] || step "$base" -m venv .venv
    step "$PYTHON" -m pip install --quiet --disable-pip-version-check -r requirements/lock.txt
    step "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps -e .
    touch "$stamp"
  fi
  export PYTHON
}
