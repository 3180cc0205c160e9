"""Warnings of other libraries that a user of the command line can do nothing about."""

from __future__ import annotations

import warnings
from typing import Any

HARMLESS = {
    'pkg_resources is deprecated as an API': 'MMEngine imports it',
    r'.*`num_anchors` is deprecated': "MMDetection's own heads use it",
    r'.*is out of bounds, the drawn .* may not be in the image': 'a predicted box reaches over the edge of an image',
    'faster_coco_eval is not installed': "OneDL's MMDetection looks for it, and it is optional",
    r'torch\.meshgrid: in an upcoming release': 'MMDetection calls it so',
}
"""The beginning of each warning as a regular expression, and where it comes from."""

SHOWN_WHATEVER_THE_FILTERS = '`TorchScript` support for functional optimizers is deprecated'
"""Torch 2.4 shows this warning when MMEngine imports its optimizers, even if a filter hides it."""


def hide_harmless_warnings() -> None:
    """Hide :data:`HARMLESS` in this process; a filter that the user has set (``python -W``) goes first.

    :data:`SHOWN_WHATEVER_THE_FILTERS` is hidden always. Commands call it before they import other libraries. Importing
    this package hides nothing.
    """
    for message in HARMLESS:
        warnings.filterwarnings('ignore', message=message, append=True)
    # Python shows it when it compiles MMDetection for the first time.
    warnings.filterwarnings('ignore', 'invalid escape sequence', module=r'.*[/\\]mmdet[/\\]', append=True)

    show = warnings.showwarning

    def show_others(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        if not str(message).startswith(SHOWN_WHATEVER_THE_FILTERS):
            show(message, *args, **kwargs)

    warnings.showwarning = show_others
