# Sourced by quickstart.sh and run_tests.sh: makes .venv with the tested versions, once.
# Sets PYTHON. An activated environment is not used; set PYTHON to use it.
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
    [ -x "$PYTHON" ] || "$base" -m venv .venv
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -r requirements/lock.txt
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps -e .
    touch "$stamp"
  fi
  export PYTHON
}
