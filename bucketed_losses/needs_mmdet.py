"""Imported first by every part that needs MMDetection: without it the import says what to install."""

from importlib.util import find_spec

if find_spec('mmdet') is None:
    raise ImportError(
        'this part of bucketed_losses needs MMDetection: pip install "bucketed-losses[mmdet]" (which mmcv: '
        'docs/getting_started.md#install); bucketed_losses.functional and bucketed_losses.modules need torch alone'
    )
