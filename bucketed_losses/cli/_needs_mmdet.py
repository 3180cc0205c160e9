"""Verbs that need MMDetection import this module first. If MMDetection is missing, one line says what to install.

Warnings of other libraries that a user can do nothing about are hidden.
"""

from __future__ import annotations

from bucketed_losses.errors import one_line_errors
from bucketed_losses.library_warnings import hide_harmless_warnings

from ._requirements import MMDET, require

hide_harmless_warnings()
one_line_errors(require)(MMDET)
