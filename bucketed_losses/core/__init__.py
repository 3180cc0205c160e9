"""The algorithm behind :mod:`bucketed_losses.functional`; torch is the only import.

Every file imports only files below it in this list, so a reader of ``bucketed_rs_loss`` goes through the list from top
to bottom, once:

====  ====================  ===================================================================================
  1   ``functional``        the public function: docstring, check of the arguments, one call
  2   ``arguments``         checks and their messages
  3   ``rank_and_sort``     AP and RS Loss, from logits and targets to values with a gradient
  4   ``sparse_targets``    indices and IoUs of the positives in place of a target for each logit
  5   ``few_launches``      on an accelerator: values and Identity Update (Eq. 8, 14)
  6   ``many_rankings``     the same for groups of entries, each ranked by itself
  7   ``grouped_ranking``   rank+, FP(i) and what each negative gets, for groups
  8   ``grouped_edges``     the edges of all groups in one row
  9   ``ranking_sums``      rank+ and FP(i) (Eq. 1, 13), what each negative gets
 10   ``negated``           negated logits of positives and negatives; values that are not finite
 11   ``ramps``             sums of the smoothed step H (Eq. 2) as differences of two ramps
 12   ``bucket_sums``       sizes and sums of buckets (Eq. 12)
 13   ``sorting_update``    sorting error, its target and its Identity Update (S.3, S.4, S.8)
 14   ``pair_sums``         the sums over pairs behind them: one by one
 15   ``merge_tree``        the same for many positives
 16   ``autograd``          the autograd Functions: hand the gradient on that was computed with the values
 17   ``entries``           flattens logits and targets; scatters the gradient
 18   ``identity_update``   on a CPU: values and Identity Update of ranked positives and negatives
 19   ``negatives``         which negatives matter, FP(i) (Eq. 1, 13), what each negative gets
 20   ``positives``         rank+ (Eq. 1), sorting error and its target (S.3, S.4)
 21   ``dominance``         the sums over pairs behind S.4 and S.7
 22   ``buckets``           edges, sizes and means of buckets (Eq. 12)
 23   ``bucketizer``        finds the bucket of a logit
 24   ``step_sums``         the smoothed step H (Eq. 2) and sums of it
 25   ``distributed``       what processes tell each other
 26   ``devices``           what differs between a CPU and an accelerator; rounding of edges
====  ====================  ===================================================================================

There are two ways through it. On a CPU, time is numbers touched, and files 18 to 24 touch few. On an accelerator, time
is operations launched and results waited for, and files 5 to 15 launch few and wait for none. Groups take the second
way on a CPU too; an accelerator that ranks together with other processes takes the first.

aLRP Loss begins with ``alrp`` in place of ``rank_and_sort`` and ``identity_update``. AP Loss with interpolated
precisions begins with ``interpolated_ap``, followed by ``alrp``, which has its ranks. DR Loss is ``dr`` alone.
"""
