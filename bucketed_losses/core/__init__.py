"""The algorithm behind :mod:`bucketed_losses.functional`; torch is the only import.

Every file imports only files below it in this list, so a reader of ``bucketed_rs_loss`` goes through the list from top
to bottom, once:

====  ====================  ===================================================================================
  1   ``functional``        the public function: docstring, check of the arguments, one call
  2   ``arguments``         checks and their messages
  3   ``rank_and_sort``     AP and RS Loss, from logits and targets to values with a gradient
  4   ``autograd``          the autograd Function: hands the gradient on that was computed with the values
  5   ``entries``           flattens logits and targets; scatters the gradient
  6   ``identity_update``   values and Identity Update (Eq. 8, 14) of ranked positives and negatives
  7   ``negatives``         which negatives matter, FP(i) (Eq. 1, 13), what each negative gets
  8   ``positives``         rank+ (Eq. 1), sorting error and its target (S.3, S.4)
  9   ``dominance``         the sums over pairs behind S.4 and S.7
 10   ``buckets``           edges, sizes and means of buckets (Eq. 12)
 11   ``bucketizer``        finds the bucket of a logit
 12   ``step_sums``         the smoothed step H (Eq. 2) and sums of it
 13   ``distributed``       what processes tell each other
 14   ``devices``           what differs between a CPU and an accelerator; rounding of edges
====  ====================  ===================================================================================

aLRP Loss begins with ``alrp`` in place of ``rank_and_sort`` and ``identity_update``; DR Loss is ``dr`` alone.
"""
