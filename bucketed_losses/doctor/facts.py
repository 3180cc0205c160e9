"""What is known about an environment, as data: :class:`Facts`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

OPENMMLAB = ('mmengine', 'mmcv', 'mmdet')
ONEDL = {'mmengine': 'onedl-mmengine', 'mmcv': 'onedl-mmcv', 'mmdet': 'onedl-mmdetection'}
"""OpenMMLab's distributions are called like their modules; OneDL's forks install the same modules. The two families
exclude each other: they write the same files."""
LIMITS = {'mmengine': ('0.10.4', '1'), 'mmcv': ('2.1', '3'), 'mmdet': ('3.3', '4')}
"""The lowest supported version of each module of MMDetection, and the first one that is not supported any more."""

TRAPS = ('mmcv-lite', 'mmcv-full')
OTHERS = ('openmim', 'onedl-mim', 'opencv-python', 'opencv-python-headless', 'lvis', 'cityscapesscripts', 'pycocotools')
DISTRIBUTIONS = (
    'bucketed-losses',
    'torch',
    'torchvision',
    'numpy',
    *OPENMMLAB,
    *ONEDL.values(),
    *TRAPS,
    *OTHERS,
    'setuptools',
    'click',
)


@dataclass(frozen=True)
class Facts:
    """What is known about an environment; :func:`gather` fills it in.

    Attributes:
        python: The version of Python.
        versions: Installed distributions of ``DISTRIBUTIONS`` and their versions.
        system: Operating system and machine.
        executable: Path of the interpreter.
        cuda: The CUDA version that torch is built for, or None.
        gpu: The name of the GPU that torch can use, or None.
        pkg_resources: Whether the module ``pkg_resources`` (of setuptools before 82) is there.
        mmdet_init: Path of ``mmdet/__init__.py``, or None.
        mmdet_cap: What that file demands of mmcv: ``'<'`` or ``'<='`` and a version; None if it demands nothing.
        checks: Results of ``CHECKS``: ``'ok'`` or what went wrong. Checks that do not apply are missing.
    """

    python: str = '3.11.9'
    versions: dict[str, str] = field(default_factory=dict)
    system: str = 'Linux x86_64'
    executable: str = 'python'
    cuda: str | None = None
    gpu: str | None = None
    pkg_resources: bool = True
    mmdet_init: str | None = None
    mmdet_cap: str | None = None
    checks: dict[str, str] = field(default_factory=dict)

    def version(self, name: str) -> str:
        """The version of a distribution or of ``python``, or ''. ``pkg_resources`` and ``MMDetection`` have ``0``."""
        if name == 'pkg_resources':
            return '0' if self.pkg_resources else ''
        if name == 'MMDetection':
            return '0' if self.has('mmdet', ONEDL['mmdet']) else ''
        return self.python if name == 'python' else self.versions.get(name, '')

    def has(self, *distributions: str) -> list[str]:
        """Those of the distributions that are installed."""
        return [name for name in distributions if name in self.versions]

    def holds(self, conditions: str) -> bool:
        """Whether all conditions hold: ``name``, ``!name`` (not installed), ``name<2.1``, ``<=`` or ``>=``."""
        for condition in conditions.split():
            absent, name, operator, bound = re.findall(r'(!?)([\w-]+)(<=|<|>=)?([\d.]*)', condition)[0]
            version, limit = numbers(self.version(name)), numbers(bound)
            compared = {'': True, '<': version < limit, '<=': version <= limit, '>=': version >= limit}[operator]
            if bool(self.version(name)) == bool(absent) or not compared:
                return False
        return True


def numbers(version: str) -> tuple[int, ...]:
    """The release numbers of a version without trailing zeros, to compare: ``(2, 1)`` of ``2.1.0+cu121``."""
    parts = [int(part) for part in re.split(r'[^\d.]', version)[0].split('.') if part]
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def stack(facts: Facts) -> str:
    """The name of the stack: ``core``, ``openmmlab``, ``openmmlab + mmcv 2.2``, ``onedl`` or ``mixed``."""
    if facts.has(*OPENMMLAB) and facts.has(*ONEDL.values()):
        return 'mixed'
    if facts.has('mmdet'):
        return 'openmmlab + mmcv 2.2' if facts.holds('mmcv>=2.2') else 'openmmlab'
    return 'onedl' if facts.has(ONEDL['mmdet']) else 'core'
