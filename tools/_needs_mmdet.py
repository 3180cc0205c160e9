"""Imported first by the tools that need MMDetection: without it they say what to install."""

from __future__ import annotations

from importlib.util import find_spec

HOW = {
    'mmengine': 'pip install "bucketed-losses[mmdet]"',
    'mmcv': 'mmcv 2.1 with its ops, built for your torch (docs/getting_started.md#install)',
    'mmdet': 'pip install "bucketed-losses[mmdet]"',
    'pycocotools': 'pip install pycocotools',
}

missing = [name for name in HOW if find_spec(name) is None]
if missing:
    raise SystemExit(f'This tool needs {", ".join(missing)}: {"; ".join(dict.fromkeys(HOW[name] for name in missing))}')
