#!/usr/bin/env bash
# Set up .venv with the pinned versions, mmcv's ops built from source, and this package (editable).
#
# Idempotent: with nothing changed it returns at once; a changed pin installs only what it concerns. Whatever was not
# finished is not marked as done, so an interrupted run is simply repeated.
#
#   PYTHON            the interpreter to build .venv with (default: python3.11, then python3)
#   MAX_JOBS          parallel compilations of mmcv (default: all cores)
#   XDG_CACHE_HOME    built wheels are kept in its folder bucketed-losses/ (default: ~/.cache)
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv
python=$venv/bin/python
# torch looks for ninja on the PATH; without it mmcv would be compiled one file at a time.
export PATH=$PWD/$venv/bin:$PATH
say() { printf '\033[1m== %s\033[0m\n' "$*"; }

if [ -z "${PYTHON:-}" ]; then
    PYTHON=$(command -v python3.11 || command -v python3) || { echo 'No python3 found: install Python 3.11' >&2; exit 1; }
fi
version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ "$version" != 3.11 ]; then
    echo "The pinned versions are for Python 3.11; $PYTHON is $version. Set PYTHON=/path/to/python3.11," \
        'or install the package into an environment of your own (docs/getting_started.md).' >&2
    exit 1
fi

# Everything the environment is made of; the last step writes it to $venv/ready.
state=$({ echo "$version $(pwd)"; cat requirements/*.txt pyproject.toml tools/setup_env.sh; } | sha256sum)
[ "$(cat $venv/ready 2>/dev/null)" = "$state" ] && exit 0
rm -f $venv/ready

if ! $python -c 'import pip' 2>/dev/null || [ "$($python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" != "$version" ]; then
    say "Creating $venv"
    "$PYTHON" -m venv --clear $venv
fi
pip() { $python -m pip --disable-pip-version-check "$@"; }

say 'Installing torch and the build tools'
pip install --quiet -r requirements/build.txt
pip install -c requirements/lock.txt -r requirements/torch.txt
say 'Installing the pinned packages'
pip install --quiet --no-deps -r requirements/lock.txt

# mmcv's binary fits one torch, one Python and one machine type.
mmcv=$(grep -v '^#' requirements/mmcv.txt)
key=$mmcv-$($python - <<'PY'
import platform, sysconfig, torch
print(f'torch{torch.__version__}-py{sysconfig.get_config_var("py_version_nodot")}-{platform.machine()}')
PY
)
if [ "$(cat $venv/mmcv 2>/dev/null)" != "$key" ]; then
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/bucketed-losses
    wheels=$cache/$key
    if ! ls "$wheels"/mmcv-*.whl >/dev/null 2>&1; then
        say "Building $mmcv with its ops against torch (10 to 20 minutes on 2 cores)"
        build=$venv/mmcv-build
        log=$build/build.log
        rm -rf "$build"
        mkdir -p "$build"
        # --no-cache-dir: pip's own cache would hand out a wheel that was built against another torch.
        show_progress() { grep --line-buffered -oE '^ *\[[0-9]+/[0-9]+\]' | while read -r step; do echo "   compiling $step"; done; }
        if ! MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(nproc)} $python -m pip --disable-pip-version-check wheel \
            --no-cache-dir --no-build-isolation --no-deps -v -w "$build/wheel" "$mmcv" 2>&1 | tee "$log" | show_progress; then
            tail -n 40 "$log" >&2
            echo "Building $mmcv failed; the end of its log is above. It needs a C++ compiler (g++) and the Python headers." >&2
            exit 1
        fi
        # Into the cache in one step: complete or not there at all, whatever else is building at the same time.
        mkdir -p "$cache"
        incoming=$(mktemp -d "$cache/.incoming.XXXXXX")
        cp "$build"/wheel/mmcv-*.whl "$incoming"
        mv -T "$incoming" "$wheels" 2>/dev/null || rm -rf "$incoming"
        rm -rf "$build"
    fi
    rm -f $venv/mmcv
    pip install --quiet --no-deps --force-reinstall "$wheels"/mmcv-*.whl
    $python -c 'from mmcv.ops import nms'
    echo "$key" > $venv/mmcv
fi

say 'Installing this package (editable)'
pip install --quiet --no-deps --no-build-isolation -e .
echo "$state" > $venv/ready
