"""Imported first by the tools that need MMDetection: without it they say what to install."""

from __future__ import annotations

from importlib.util import find_spec

from bucketed_losses.errors import ReportedError, report
from bucketed_losses.stack import StackError, check_stack

try:
    check_stack()
except StackError as error:
    report(error)
    raise ReportedError(str(error)) from error
if find_spec('pycocotools') is None:
    message = 'this tool needs pycocotools: pip install pycocotools'
    report(message)
    raise ReportedError(message)
