"""What tests of the core share."""

from __future__ import annotations

from fake_cuda import fake_cuda  # noqa: F401
