"""The published loop over positives, where tests and benchmarks look for it; a study times it too."""

from bucketed_losses.study.loop_over_positives import loop_over_positives, step

__all__ = ['loop_over_positives', 'step']
