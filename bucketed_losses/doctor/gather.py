"""Look at the interpreter that runs this, and collect the :class:`~bucketed_losses.doctor.facts.Facts`."""

from __future__ import annotations

import importlib.util
import platform
import re
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from .checks import CHECKS, run_checks
from .facts import DISTRIBUTIONS, ONEDL, OPENMMLAB, TRAPS, Facts


def gather(timeout: float = 300.0) -> Facts:
    """Look at the interpreter that runs this.

    Args:
        timeout: Seconds after which the process with the checks is ended.
    """
    versions = {}
    for name in DISTRIBUTIONS:
        try:
            version = metadata.version(name)
        except (metadata.PackageNotFoundError, KeyError):  # KeyError: the rest of an incomplete installation
            continue
        if version:
            versions[name] = version
    for module in ('torch', *OPENMMLAB):  # a source tree on the path instead of a distribution
        path, providers = _find(module), (module, ONEDL.get(module, ''), *(TRAPS if module == 'mmcv' else ()))
        if path and not any(name in versions for name in providers):
            versions[module] = _search(path.with_name('version.py'), r"^__version__ = '([^']+)'") or '0'
    torch, mmdet, mmcv = _find('torch'), _find('mmdet'), _find('mmcv')
    cap = _search(mmdet, r"^mmcv_maximum_version = '([^']+)'")
    operator = _search(mmdet, r'mmcv_version (<=?) digit_version\(mmcv_maximum_version\)')
    facts = Facts(
        python=platform.python_version(),
        versions=versions,
        system=f'{platform.system()} {platform.machine()}',
        executable=sys.executable,
        cuda=_search(torch and torch.with_name('version.py'), r"^cuda\b.*= '([\d.]+)'"),
        pkg_resources=_find('pkg_resources') is not None,
        mmdet_init=str(mmdet) if mmdet else None,
        mmdet_cap=operator + cap if cap and operator else None,
    )
    if not torch:
        return facts
    wanted = [check for check in CHECKS if check.startswith('loss') or (mmdet and (mmcv or check == 'plug-in'))]
    checks, gpu = run_checks(wanted, timeout)
    return replace(facts, checks=checks, gpu=gpu)


def _find(module: str) -> Path | None:
    """The file of a top-level module, found without importing it."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin else None


def _search(file: Path | None, pattern: str) -> str | None:
    """The first group of the first match of a pattern in a file; None without a file or a match."""
    text = file.read_text(encoding='utf-8', errors='replace') if file and file.is_file() else ''
    match = re.search(pattern, text, re.MULTILINE)
    return match[1] if match else None
