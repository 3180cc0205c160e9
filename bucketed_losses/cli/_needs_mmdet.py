"""Verbs that need MMDetection import this module first. If MMDetection is missing, one line says what to install.

Warnings of other libraries that a user can do nothing about are hidden. A command ends without a search for garbage in
the thousands of modules that it has imported, which would take more than a second.
"""

from __future__ import annotations

import atexit
import gc

from bucketed_losses.errors import one_line_errors
from bucketed_losses.library_warnings import hide_harmless_warnings

from ._requirements import MMDET, require

atexit.register(gc.freeze)
hide_harmless_warnings()
one_line_errors(require)(MMDET)
