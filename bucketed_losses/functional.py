"""Ranking-based losses as pure functions of tensors; torch is the only import.

Notation (the paper's): logits ``s``; positives ``i in P`` with the IoU ``t_i`` in (0, 1] of the predicted box with its
ground truth; negatives ``j in N``; ``x_ij = s_j - s_i``; the smoothed step ``H`` of Eq. 2 with half-width ``delta``.
Then::

    rank+(i) = sum_{k in P} H(x_ik)      FP(i) = sum_{j in N} H(x_ij)      rank(i) = rank+(i) + FP(i)         (Eq. 1)
    ranking error  l_R(i)  = FP(i) / rank(i),  its target 0                                                   (Eq. 9)
    sorting error  l_S(i)  = sum_k H(x_ik) (1 - t_k) / rank+(i)                                               (S.3)
    its target     l*_S(i) = sum_k H(x_ik) [t_k >= t_i] (1 - t_k) / sum_k H(x_ik) [t_k >= t_i]                (S.4)

    AP Loss = mean_i l_R(i)                                                                                   (Eq. 3)
    RS Loss = mean_i l_R(i) + mean_i (l_S(i) - l*_S(i))                                                       (Eq. 10)

Four losses share one algorithm and differ in the edges between which negatives are bucketed:

=======================  ==================================  ===================================================
loss                     edges                               what it equals
=======================  ==================================  ===================================================
``bucketed_ap_loss``     the positives (Eq. 12)              the paper's Bucketed AP Loss
``bucketed_rs_loss``     the positives (Eq. 12)              the paper's Bucketed RS Loss
``ap_loss``              the positives +- delta              AP Loss, exactly: H is linear inside every bucket.
                                                             With ``interpolated=True``, that of the published code
``rs_loss``              the positives +- delta              RS Loss, exactly
=======================  ==================================  ===================================================

They take time O((N + P) log P) and memory O(N + P); there is no loop over positives. The algorithm is in
:mod:`bucketed_losses.core`, whose docstring lists its files in the order in which they run.
"""

from __future__ import annotations

from torch import Tensor

from .core.alrp import ALRP, alrp
from .core.arguments import check_arguments, check_box_errors, check_ranking_arguments
from .core.distributed import Group
from .core.dr import NEGATIVE_TEMPERATURE, check_dr_settings, distributional_ranking
from .core.interpolated_ap import interpolated_ap
from .core.many_rankings import as_groups
from .core.rank_and_sort import RankSort, rank_and_sort
from .core.sparse_targets import SparseTargets

__all__ = [
    'ALRP',
    'RankSort',
    'SparseTargets',
    'alrp_loss',
    'ap_loss',
    'bucketed_ap_loss',
    'bucketed_rs_loss',
    'dr_loss',
    'rs_loss',
]


def ap_loss(
    logits: Tensor,
    targets: Tensor | SparseTargets,
    delta: float = 1.0,
    *,
    interpolated: bool = False,
    positives: Tensor | None = None,
    group: Group = 'local',
    groups: Tensor | None = None,
    num_groups: int | None = None,
) -> Tensor:
    """AP Loss, exact and unbucketed for every ``delta``: as in Eq. 3 and 4, or as in the published code.

    The published AP Loss (Chen et al., Towards Accurate One-Stage Object Detection with AP-Loss, CVPR 2019) is not that
    of Eq. 3. It uses interpolated precisions, and a positive counts as 1 in its own rank, not as H(0). This is
    ``interpolated=True``::

        rank(i) = 1 + sum_{k != i} H(x_ik) + FP(i)         e(i) = FP(i) / rank(i) = 1 - precision(i)
        E(i)    = min_{k: s_k <= s_i} e(k)                 one minus the interpolated precision
        loss    = mean_i E(i)

    A positive gets the gradient ``-E(i) / P``, and the negatives above it the opposite in proportion to ``H(x_ij)``.
    The paper's Bucketed AP Loss is that of Eq. 3, so it approximates ``interpolated=False``.

    Args:
        logits: Scores before the sigmoid, any shape, any floating-point dtype. Half precision is computed in float32.
        targets: Same shape: 0 negative, (0, 1] positive, below 0 ignored (such entries take no part). AP Loss does not
            use how large a positive target is. Or :class:`SparseTargets`: the indices and IoUs of the positives.
        delta: Half-width of the smoothed step H, in logits; 0, or at least 1e-9.
        interpolated: Interpolate precisions, as the published code does.
        positives: ``(P,)`` int64 indices of the positives among the flattened logits, without repetition, if the
            caller knows them; this saves a pass and a host synchronisation. A positive that is not among them is
            ignored, but must be finite.
        group: Processes whose logits are ranked together: 'local', this process alone; 'world', all processes; or a
            ``torch.distributed.ProcessGroup``. None means 'world', as everywhere in ``torch.distributed``, and is
            resolved when the loss is called; if no processes are connected then, it means this process alone. All
            processes of the group must make the call, in the same order as their other collectives and with the same
            ``delta``; any of them may have no positives, no negatives, or no entries at all. A call makes three
            collectives: the first gathers how many positives each process has, the second gathers the positives, the
            third adds up the buckets. If no process has a positive, it makes only the first. The value is that of the
            whole batch on every process. The gradient is that of the whole batch for the process's own logits, times
            the number of processes: ``DistributedDataParallel`` averages the gradients of parameters over processes,
            which makes it exact.
        groups: The group of each logit, int64 in [0, ``num_groups``), in the shape of the logits. Every group is ranked
            by itself, as by a call of its own, at the cost of about two calls on an accelerator. This ranks images,
            classes or decoder layers separately. None ranks all logits together.
        num_groups: G, the number of groups, including groups without logits.

    Returns:
        A scalar in [0, 1), or with ``groups`` one for each group, ``(G,)``; 0 and connected to ``logits`` if there is
        no positive; NaN if a logit or target that takes part is not finite.

    Raises:
        TypeError: An argument is of the wrong type or dtype.
        ValueError: Shapes or devices differ; ``delta`` is negative, not finite or too small; a target exceeds 1;
            ``positives`` are not distinct indices of positives; ``groups`` do not fit ``num_groups``, or are given
            with ``interpolated=True``; or this process does not belong to ``group``. What needs the values of tensors
            is checked on the CPU only: on an accelerator it would cost a host synchronisation.
        RuntimeError: A tensor is mapped over by ``torch.vmap``; or it is on CUDA and
            ``torch.use_deterministic_algorithms(True)`` was called.

    Example:
        The first positive is second, behind one negative; the second one is fourth, behind two:

        >>> import torch
        >>> from bucketed_losses import functional as F
        >>> logits = torch.tensor([3.0, 2.0, 1.0, 0.0, -1.0], requires_grad=True)
        >>> targets = torch.tensor([0.0, 0.6, 0.0, 0.9, 0.0])
        >>> loss = F.ap_loss(logits, targets, delta=0.0)
        >>> loss.item()  # (1/2 + 2/4) / 2
        0.5
        >>> loss.backward()
        >>> logits.grad.tolist()
        [0.375, -0.25, 0.125, -0.25, 0.0]

        Two rankings in one call, the first of three logits and the second of two:

        >>> groups = torch.tensor([0, 0, 0, 1, 1])
        >>> F.ap_loss(logits, targets, delta=0.0, groups=groups, num_groups=2).tolist()  # 1/2 and 0
        [0.5, 0.0]

        Precisions 1/2, 2/3 and 3/5 of three positives, the highest first. The 1/2 becomes 2/3 by interpolation:

        >>> logits, targets = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0]), torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0])
        >>> round(F.ap_loss(logits, targets, delta=0.0).item(), 4)  # (1/2 + 1/3 + 2/5) / 3
        0.4111
        >>> round(F.ap_loss(logits, targets, delta=0.0, interpolated=True).item(), 4)  # (1/3 + 1/3 + 2/5) / 3
        0.3556

    Note:
        The gradient is the Identity Update (Eq. 8). It is not the derivative of the value, which is zero almost
        everywhere for ``delta = 0``, so ``torch.autograd.gradcheck`` does not apply. On an accelerator, a call
        waits for the device once, to learn how many positives there are, and not if they are given. With
        ``interpolated=True`` or a ``group`` it also waits to learn how many negatives can matter, and with a ``group``
        how many positives the other processes have.

        Sums are computed in float64. A positive with a logit of 1e9 costs the others, also those of other ``groups``,
        all but six or seven digits. If a positive is so far from 0 that float64 cannot add ``delta`` to its logit
        (about 1e16 ``delta``), the loss is NaN or wrong, and that of other groups may be, too. The logits of negatives
        may have any size.
    """
    check_ranking_arguments(logits, targets, delta, positives, group, groups, num_groups)
    if interpolated:
        if groups is not None:
            raise ValueError('interpolated=True has no groups; call ap_loss for each group, or leave interpolated out')
        return interpolated_ap(logits, targets, delta, positives, group)
    return rank_and_sort(
        logits, targets, delta, positives, group, exact=True, sort=False, groups=as_groups(groups, num_groups)
    ).ranking


def bucketed_ap_loss(
    logits: Tensor,
    targets: Tensor | SparseTargets,
    delta: float = 1.0,
    *,
    positives: Tensor | None = None,
    group: Group = 'local',
    groups: Tensor | None = None,
    num_groups: int | None = None,
) -> Tensor:
    """Bucketed AP Loss (Sec. 4.2.1, Eq. 13 and 14) as published; arguments and errors as in :func:`ap_loss`.

    Negatives between two neighbouring positives count as one, at their mean, and share its gradient equally (S.22).
    There is no ``interpolated``. Equals :func:`ap_loss` for ``delta = 0`` (Theorem 1) and approximates it otherwise.

    Example:
        One positive at 0, two negatives above it. The exact loss counts H(0.5) + H(3) = 0.75 + 1 negatives in front of
        the positive, the bucketed one counts 2 H(1.75) = 2:

        >>> import torch
        >>> from bucketed_losses import functional as F
        >>> logits, targets = torch.tensor([0.0, 0.5, 3.0]), torch.tensor([1.0, 0.0, 0.0])
        >>> round(F.ap_loss(logits, targets).item(), 4)  # 1.75 / (H(0) + 1.75)
        0.7778
        >>> round(F.bucketed_ap_loss(logits, targets).item(), 4)  # 2 / (H(0) + 2)
        0.8
    """
    check_ranking_arguments(logits, targets, delta, positives, group, groups, num_groups)
    return rank_and_sort(
        logits, targets, delta, positives, group, exact=False, sort=False, groups=as_groups(groups, num_groups)
    ).ranking


def rs_loss(
    logits: Tensor,
    targets: Tensor | SparseTargets,
    delta: float = 0.5,
    *,
    positives: Tensor | None = None,
    group: Group = 'local',
    groups: Tensor | None = None,
    num_groups: int | None = None,
) -> RankSort:
    """RS Loss (Eq. 10, S.2 to S.9), exact and unbucketed for every ``delta``.

    Args:
        logits: As in :func:`ap_loss`.
        targets: Same shape: 0 negative, (0, 1] positive with its IoU, below 0 ignored; or :class:`SparseTargets`.
        delta: Half-width of the smoothed step H, in logits; 0, or at least 1e-9.
        positives: As in :func:`ap_loss`.
        group: As in :func:`ap_loss`.
        groups: As in :func:`ap_loss`.
        num_groups: As in :func:`ap_loss`.

    Returns:
        ``RankSort(ranking, sorting)``, two scalars, or with ``groups`` two of the shape ``(G,)``; its ``total`` is the
        loss. The gradients of both count.

    Raises:
        TypeError: As :func:`ap_loss`.
        ValueError: As :func:`ap_loss`.

    Example:
        As in :func:`ap_loss`; in addition, the positive with the lower IoU is in front of the other one:

        >>> import torch
        >>> from bucketed_losses import functional as F
        >>> logits = torch.tensor([3.0, 2.0, 1.0, 0.0, -1.0], requires_grad=True)
        >>> targets = torch.tensor([0.0, 0.6, 0.0, 0.9, 0.0])
        >>> loss = F.rs_loss(logits, targets, delta=0.0)
        >>> loss.ranking.item()
        0.5
        >>> round(loss.sorting.item(), 4)  # (0 + (0.4 + 0.1) / 2 - 0.1) / 2
        0.075
        >>> loss.total.backward()
    """
    check_ranking_arguments(logits, targets, delta, positives, group, groups, num_groups)
    return rank_and_sort(
        logits, targets, delta, positives, group, exact=True, sort=True, groups=as_groups(groups, num_groups)
    )


def bucketed_rs_loss(
    logits: Tensor,
    targets: Tensor | SparseTargets,
    delta: float = 0.5,
    *,
    positives: Tensor | None = None,
    group: Group = 'local',
    groups: Tensor | None = None,
    num_groups: int | None = None,
) -> RankSort:
    """Bucketed RS Loss (Sec. 4.2.2) as published; arguments, result and errors as in :func:`rs_loss`.

    The ranking part is bucketed as in :func:`bucketed_ap_loss`; the sorting part involves no negatives and is exact.

    Example:
        >>> import torch
        >>> from bucketed_losses import functional as F
        >>> logits = torch.randn(1000, 80, requires_grad=True)  # (predictions, classes)
        >>> targets = torch.zeros(1000, 80)
        >>> targets[:20, 3] = torch.linspace(0.5, 1.0, 20)  # the IoUs of twenty positives of class 3
        >>> ranking, sorting = F.bucketed_rs_loss(logits, targets)
        >>> (ranking + sorting).backward()
        >>> logits.grad.shape
        torch.Size([1000, 80])
    """
    check_ranking_arguments(logits, targets, delta, positives, group, groups, num_groups)
    return rank_and_sort(
        logits, targets, delta, positives, group, exact=False, sort=True, groups=as_groups(groups, num_groups)
    )


def alrp_loss(
    logits: Tensor,
    targets: Tensor,
    box_errors: Tensor,
    delta: float = 1.0,
    *,
    positives: Tensor | None = None,
    group: Group = 'local',
) -> ALRP:
    """aLRP Loss, exact for every ``delta`` (Oksuz et al., A Ranking-based, Balanced Loss Function Unifying
    Classification and Localisation in Object Detection, NeurIPS 2020).

    With ``rank+(i) = 1 + sum_{k != i} H(x_ik)`` over the positives and ``rank(i) = rank+(i) + FP(i)``::

        classification  mean_i FP(i) / rank(i)
        localization    mean_i sum_{k: s_k >= s_i} e_k / rank(i),  rank detached

    The gradient of the logits is the error-driven update of the whole error: a positive with ``FP(i) > 1e-5`` gets
    ``-(sum_{k != i} H(x_ik) e_k + FP(i)) / rank(i) / P``, and the negatives that outrank it get the opposite in
    proportion to ``H(x_ij)``. The localisation part has a gradient with respect to the box errors only.

    Args:
        logits: As in :func:`ap_loss`.
        targets: Same shape: 0 negative, (0, 1] positive (how large does not matter), below 0 ignored.
        box_errors: ``(P,)`` localisation errors e of the positives, 0 or more, in the order of ``positives``, or of the
            flattened logits. Published: the GIoU loss of the box, ``(1 - GIoU) / (2 (1 - tau))`` with tau 0.5.
        delta: Half-width of the smoothed step H, in logits; 0, or at least 1e-9.
        positives: As in :func:`ap_loss`.
        group: As in :func:`ap_loss`. A fourth collective adds up the localisation part, if a process has a positive.

    Returns:
        ``ALRP(classification, localization)``, two scalars; 0 and connected if there is no positive.

    Raises:
        TypeError: As :func:`ap_loss`, or ``box_errors`` are not a floating-point tensor.
        ValueError: As :func:`ap_loss`, or there is not one box error for each positive.
        RuntimeError: As :func:`ap_loss`.

    Note:
        On an accelerator, a call waits for the device as often as :func:`ap_loss` with ``interpolated=True``.

    Example:
        >>> import torch
        >>> from bucketed_losses import functional as F
        >>> logits, targets = torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
        >>> loss = F.alrp_loss(logits, targets, box_errors=torch.tensor([0.2, 0.4]), delta=0.0)
        >>> loss.classification.item()  # (1/2 + 2/4) / 2
        0.5
        >>> round(loss.localization.item(), 4)  # (0.2 / 2 + (0.2 + 0.4) / 4) / 2
        0.125
    """
    check_arguments(logits, targets, delta, positives)
    check_box_errors(box_errors, logits)
    return alrp(logits, targets, box_errors, delta, positives, group)


def dr_loss(
    logits: Tensor,
    targets: Tensor,
    margin: float = 0.5,
    positive_temperature: float = 1.0,
    negative_temperature: float = NEGATIVE_TEMPERATURE,
    smoothness: float = 6.0,
    scale: float = 4.0,
) -> Tensor:
    """DR Loss (Qian et al., DR Loss: Improving Object Detection by Distributional Ranking, CVPR 2020).

    The expected score of the positives, under a distribution that prefers low scores, must exceed the expected score of
    the negatives, under a distribution that prefers high scores, by a margin. With sigmoid scores p::

        P+ = sum q+ p,  q+ ~ exp(-p / positive_temperature)     P- = sum q- p,  q- ~ exp(p / negative_temperature)
        loss = scale * softplus(smoothness * (P- - P+ + margin)) / smoothness

    Args:
        logits: Any shape, any floating-point dtype, before the sigmoid; half precision is computed in float32.
        targets: Same shape: 0 negative, (0, 1] positive (how large does not matter), below 0 ignored.
        margin: gamma.
        positive_temperature: lambda+, at least 1e-6.
        negative_temperature: lambda-, at least 1e-6.
        smoothness: L, above 0.
        scale: tau.

    Returns:
        A scalar of the logits' dtype (float32 for half precision), differentiable by autograd. If there is no positive,
        ``P+ = 1``; if there is no negative, ``P- = 0``. Unlike the other losses, it is not 0 then.

    Raises:
        TypeError: An argument is of the wrong type or dtype.
        ValueError: Shapes or devices differ, a target exceeds 1, or a setting is not finite or too small.
        RuntimeError: A tensor is mapped over by ``torch.vmap``.

    Note:
        On an accelerator, a call waits for the device twice, to learn how many positives and negatives there are.

    Example:
        >>> import torch
        >>> from bucketed_losses import functional as F
        >>> targets = torch.tensor([1.0, 0.0, 0.0])
        >>> wrong_order, right_order = torch.tensor([-2.0, 1.0, 0.0]), torch.tensor([3.0, -3.0, -4.0])
        >>> bool(F.dr_loss(wrong_order, targets) > F.dr_loss(right_order, targets))
        True
    """
    check_arguments(logits, targets, 0.0, None)
    check_dr_settings(margin, positive_temperature, negative_temperature, smoothness, scale)
    return distributional_ranking(
        logits, targets, margin, positive_temperature, negative_temperature, smoothness, scale
    )
