"""Imported first by what needs MMDetection: without it, one line says what to install."""

from __future__ import annotations

from bucketed_losses.errors import one_line_errors

from ._requirements import MMDET, require

one_line_errors(require)(MMDET)
