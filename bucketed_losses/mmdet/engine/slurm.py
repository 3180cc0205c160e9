"""Requests of a run to Slurm."""

from __future__ import annotations

import logging
import os
import subprocess

from mmengine.logging import print_log


def requeue() -> None:
    """Put the job of this process back into the queue (``scontrol requeue``), or log a warning if this fails."""
    job = os.environ.get('SLURM_JOB_ID')
    if job is None:
        print_log('requeue=True, but this is not a Slurm job: SLURM_JOB_ID is not set.', 'current', logging.WARNING)
        return
    try:
        subprocess.run(['scontrol', 'requeue', job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, 'stderr', None) or error
        print_log(f'Job {job} was saved but not requeued: {reason}', 'current', logging.WARNING)
