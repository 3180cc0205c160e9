"""The settings of hypothesis for the whole suite; the environment variable ``HYPOTHESIS_PROFILE`` names a profile.

``default`` draws the same cases on every run, so that ``make test`` and CI do not pass or fail by chance. ``thorough``
draws new cases on every run, ten times as many; ``test_properties.py`` runs it as a slow test.

A module that sets ``max_examples`` of its own overrides both profiles.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

EXAMPLES = 60
# Both of these limits measure wall-clock time, which depends on what else the machine does.
NO_CLOCK = dict(deadline=None, suppress_health_check=[HealthCheck.too_slow])

settings.register_profile('default', max_examples=EXAMPLES, derandomize=True, database=None, **NO_CLOCK)
settings.register_profile('thorough', max_examples=10 * EXAMPLES, derandomize=False, print_blob=True, **NO_CLOCK)
PROFILE = os.environ.get('HYPOTHESIS_PROFILE') or 'default'
settings.load_profile(PROFILE)
