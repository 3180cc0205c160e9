"""The published loop over positives, for tests and benchmarks. It is in the package, because a study times it, too."""

from bucketed_losses.study.loop_over_positives import loop_over_positives, step

__all__ = ['loop_over_positives', 'step']
