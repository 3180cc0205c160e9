#!/usr/bin/env bash
# Set up a virtual environment for a stack; see tools/setup_env.py. Any Python 3.10 or newer can run that program: it
# finds the interpreter of the stack by itself.
set -euo pipefail
cd "$(dirname "$0")/.."
for python in "${PYTHON:-}" python3.13 python3.12 python3.11 python3.10 python3; do
    if [ -n "$python" ] && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        exec "$python" tools/setup_env.py "$@"
    fi
done
echo 'setup: no Python from 3.10 on was found. Install one, or set PYTHON=/path/to/python.' >&2
exit 1
