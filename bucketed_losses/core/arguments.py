"""Checks of arguments, with messages that name the argument, what it is and what it should be.

Checks that read values are made on a CPU only: on an accelerator the host would have to wait for them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import devices
from .sparse_targets import SparseTargets

MIN_DELTA = 1e-9
"""The smallest delta above 0. Differences of float64 sums are divided by 2 delta, so rounding errors grow as delta
shrinks: at this limit the loss is off by less than 1e-6 for logits around 0 (by about 1e-5 for float64 logits around
1000), at 1e-15 it would be wrong in its first digit."""


def check_ranking_arguments(
    logits: Tensor,
    targets: Tensor | SparseTargets,
    delta: float,
    positive_indices: Tensor | None,
    group: object,
    groups: Tensor | None,
    num_groups: int | None,
) -> None:
    """Check what AP and RS Loss take; ``positive_indices`` is their argument ``positives``.

    Raises:
        TypeError: As :func:`check_arguments`, or the IoUs, the ignored entries, ``groups`` or ``num_groups`` are of the
            wrong type or dtype.
        ValueError: As :func:`check_arguments`, or ``positives`` are given twice, there is not one IoU for each
            positive, an IoU is not in [0, 1], or a positive is ignored; or ``groups`` do not fit the logits,
            ``num_groups`` or ``group``.
    """
    if isinstance(targets, SparseTargets):
        if positive_indices is not None:
            raise ValueError('positives must not be given if targets are SparseTargets, which have them')
        _check_sparse_targets(logits, targets, delta)
    else:
        check_arguments(logits, targets, delta, positive_indices)
    if groups is not None or num_groups is not None:
        _check_groups(groups, num_groups, logits, group)


def _check_sparse_targets(logits: Tensor, targets: SparseTargets, delta: float) -> None:
    ious, ignored = targets.ious, targets.ignored
    if not isinstance(ious, Tensor) or not ious.is_floating_point():
        found = ious.dtype if isinstance(ious, Tensor) else type(ious).__name__
        raise TypeError(f'targets.ious must be a floating-point tensor, got {found}')
    if ignored is not None and (not isinstance(ignored, Tensor) or ignored.dtype != torch.bool):
        found = ignored.dtype if isinstance(ignored, Tensor) else type(ignored).__name__
        raise TypeError(f'targets.ignored must be a bool tensor or None, got {found}')
    _check_logits(logits)
    _check_positive_indices(targets.positives, logits.numel(), logits.device)
    if ious.shape != targets.positives.shape:
        raise ValueError(
            f'targets.ious must have the shape of targets.positives, {tuple(targets.positives.shape)}, '
            f'got {tuple(ious.shape)}'
        )
    if ignored is not None and ignored.shape != logits.shape:
        raise ValueError(
            f'targets.ignored must have the shape of logits, {tuple(logits.shape)}, got {tuple(ignored.shape)}'
        )
    for name, value in (('ious', ious), ('ignored', ignored)):
        if value is None:
            continue
        _refuse_vmap(value)
        if value.device != logits.device:
            raise ValueError(f'targets.{name} must be on the device of logits, {logits.device}, got {value.device}')
    check_delta(delta)
    if devices.on_cpu(ious) and len(ious):
        if ious.min() < 0 or ious.max() > 1:  # NaN passes, and makes the loss NaN
            raise ValueError(f'targets.ious must lie in [0, 1], got {ious.min().item():g} to {ious.max().item():g}')
        if ignored is not None and ignored.take(targets.positives).any():
            raise ValueError('targets.positives must not be ignored, got some that targets.ignored marks')


def check_arguments(logits: Tensor, targets: Tensor, delta: float, positive_indices: Tensor | None) -> None:
    """Check what all ranking losses take; ``positive_indices`` is their argument ``positives``.

    Raises:
        TypeError: An argument is of the wrong type or dtype.
        ValueError: Shapes or devices differ; ``delta`` is negative, not finite or too small; a target exceeds 1; or
            ``positives`` are not distinct indices of positives.
    """
    check_tensors(logits, targets)
    check_delta(delta)
    if devices.on_cpu(targets) and targets.numel() and targets.max() > 1:
        raise ValueError(
            f'targets must not exceed 1 (0 negative, (0, 1] positive with its IoU, < 0 ignored), '
            f'got a maximum of {targets.max().item():g}'
        )
    if positive_indices is not None:
        _check_positive_indices(positive_indices, targets.numel(), targets.device)
        # A target of NaN passes: it makes the loss NaN, which says more about where it comes from than an error here.
        if devices.on_cpu(targets) and (targets.reshape(-1).index_select(0, positive_indices) <= 0).any():
            raise ValueError('positives must be indices of entries whose target is above 0, got others among them')


def check_tensors(logits: Tensor, targets: Tensor) -> None:
    """Check the types, dtypes, shapes and devices of logits and targets; their values are not read.

    Raises:
        TypeError: One is not a tensor, or of the wrong dtype.
        ValueError: Shapes or devices differ.
        RuntimeError: One is mapped over by ``torch.vmap``.
    """
    _check_logits(logits)
    if not isinstance(targets, Tensor):
        raise TypeError(f'targets must be a torch.Tensor, got {type(targets).__name__}')
    if targets.is_complex():
        raise TypeError(f'targets must be real (0 negative, (0, 1] positive, < 0 ignored), got {targets.dtype}')
    if targets.shape != logits.shape:
        raise ValueError(
            f'targets must have the shape of logits, {tuple(logits.shape)}, got {tuple(targets.shape)}; '
            'for class indices build one target per (prediction, class) entry'
        )
    _refuse_vmap(targets)
    if targets.device != logits.device:
        raise ValueError(f'targets must be on the device of logits, {logits.device}, got {targets.device}')


def _check_logits(logits: Tensor) -> None:
    if not isinstance(logits, Tensor):
        raise TypeError(f'logits must be a torch.Tensor, got {type(logits).__name__}')
    if not logits.is_floating_point():
        raise TypeError(f'logits must be a floating-point tensor (scores before the sigmoid), got {logits.dtype}')
    _refuse_vmap(logits)


def _refuse_vmap(tensor: Tensor) -> None:
    """Raise an error if a ``torch.vmap`` maps over the tensor, inside of other transforms or not."""
    if not devices.is_transformed():
        return
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            raise RuntimeError(
                'ranking losses do not support torch.vmap; AP and RS Loss rank many batches in one call with the '
                'arguments groups and num_groups'
            )
        tensor = functorch.get_unwrapped(tensor)


def check_delta(delta: float) -> None:
    """Check the half-width of the smoothed step.

    Raises:
        TypeError: It is not a number.
        ValueError: It is negative, not finite, or so small that float64 cannot resolve the step.
    """
    if isinstance(delta, bool) or not isinstance(delta, (int, float)):
        raise TypeError(f'delta must be a float, got {type(delta).__name__}')
    if not 0 <= delta < math.inf:
        raise ValueError(f'delta must be finite and not negative, got {delta}')
    if 0 < delta < MIN_DELTA:
        raise ValueError(
            f'delta must be 0 or at least {MIN_DELTA:g}, got {delta:g}: float64 cannot resolve a narrower step; use 0'
        )


def _check_positive_indices(positive_indices: Tensor, num_entries: int, device: torch.device) -> None:
    if not isinstance(positive_indices, Tensor):
        raise TypeError(f'positives must be a torch.Tensor of indices, got {type(positive_indices).__name__}')
    if positive_indices.dtype != torch.int64 or positive_indices.dim() != 1:
        raise TypeError(
            f'positives must be (P,) int64 indices, got {tuple(positive_indices.shape)} {positive_indices.dtype}'
        )
    _refuse_vmap(positive_indices)
    if positive_indices.device != device:
        raise ValueError(f'positives must be on the device of logits, {device}, got {positive_indices.device}')
    if not devices.on_cpu(positive_indices) or len(positive_indices) == 0:
        return
    lowest, highest = (int(value) for value in positive_indices.aminmax())
    if lowest < 0 or highest >= num_entries:
        raise ValueError(f'positives must be indices of the {num_entries} flattened logits, got {lowest} to {highest}')
    num_distinct = len(positive_indices.unique())
    if num_distinct != len(positive_indices):
        raise ValueError(f'positives must be distinct, got {len(positive_indices)} indices of {num_distinct} entries')


def _check_groups(groups: Tensor | None, num_groups: int | None, logits: Tensor, group: object) -> None:
    if groups is None or num_groups is None:
        raise ValueError(
            f'groups and num_groups must be given together, got num_groups={num_groups} and groups of '
            f'type {type(groups).__name__}'
        )
    if not isinstance(groups, Tensor) or groups.dtype != torch.int64:
        found = groups.dtype if isinstance(groups, Tensor) else type(groups).__name__
        raise TypeError(f'groups must be an int64 tensor, the group of each logit, got {found}')
    if isinstance(num_groups, bool) or not isinstance(num_groups, int):
        raise TypeError(f'num_groups must be an int, got {type(num_groups).__name__}')
    _refuse_vmap(groups)
    if num_groups < 0:
        raise ValueError(f'num_groups must not be negative, got {num_groups}')
    if groups.shape != logits.shape:
        raise ValueError(f'groups must have the shape of logits, {tuple(logits.shape)}, got {tuple(groups.shape)}')
    if groups.device != logits.device:
        raise ValueError(f'groups must be on the device of logits, {logits.device}, got {groups.device}')
    if group != 'local':
        raise ValueError(f"group must be 'local' if groups are given, got {group!r}: a group is ranked by one process")
    if devices.on_cpu(groups) and groups.numel():
        lowest, highest = (int(value) for value in groups.aminmax())
        if lowest < 0 or highest >= num_groups:
            raise ValueError(f'groups must lie in [0, {num_groups}), the number of groups, got {lowest} to {highest}')


def check_box_errors(box_errors: Tensor, logits: Tensor) -> None:
    """Check the errors of boxes that aLRP Loss takes; their number is not checked here.

    Raises:
        TypeError: They are not a tensor, or not of a floating-point dtype.
        ValueError: They are not on the device of the logits.
        RuntimeError: They are mapped over by ``torch.vmap``.
    """
    if not isinstance(box_errors, Tensor) or not box_errors.is_floating_point():
        found = box_errors.dtype if isinstance(box_errors, Tensor) else type(box_errors).__name__
        raise TypeError(f'box_errors must be a floating-point tensor, got {found}')
    _refuse_vmap(box_errors)
    if box_errors.device != logits.device:
        raise ValueError(f'box_errors must be on the device of logits, {logits.device}, got {box_errors.device}')
