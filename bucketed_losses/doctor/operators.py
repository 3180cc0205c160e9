"""Small inputs for the operators of mmcv, with results that are known. torch and mmcv are imported when one is run."""

from __future__ import annotations


def check_nms(device: str = 'cpu') -> None:
    """Run NMS on three boxes, of which the second overlaps the first.

    Raises:
        ImportError: mmcv is missing, has no compiled operators, or was compiled for another torch.
        ValueError: The result is wrong.
    """
    import torch
    from mmcv.ops import nms

    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]], device=device)
    kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7], device=device), 0.5)[1].tolist()
    if kept != [0, 2]:
        raise ValueError(f'mmcv.ops.nms kept the boxes {kept} instead of [0, 2]')


def check_roi_align(device: str = 'cpu') -> None:
    """Pool the upper left quarter of a ramp into one value.

    Raises:
        ImportError: As for :func:`check_nms`.
        ValueError: The result is wrong.
    """
    import torch
    from mmcv.ops import roi_align

    rows = torch.arange(8.0, device=device).view(1, 1, 8, 1).expand(1, 1, 8, 8).contiguous()
    pooled = roi_align(rows, torch.tensor([[0.0, 0, 0, 4, 4]], device=device), (1, 1), 1.0, 0, 'avg', True).item()
    if abs(pooled - 1.5) > 1e-4:
        raise ValueError(f'mmcv.ops.roi_align returned {pooled} instead of 1.5')


def check_deformable_attention() -> None:
    """Run deformable attention on random values.

    Raises:
        ImportError: As for :func:`check_nms`.
        ValueError: The result has another shape or is not finite.
    """
    import torch
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttention

    attention = MultiScaleDeformableAttention(embed_dims=32, num_heads=4, num_levels=1, num_points=2)
    out = attention(
        torch.rand(3, 1, 32),
        value=torch.rand(16, 1, 32),
        reference_points=torch.full((1, 3, 1, 2), 0.5),
        spatial_shapes=torch.tensor([[4, 4]]),
        level_start_index=torch.tensor([0]),
    )
    if out.shape != (3, 1, 32) or not torch.isfinite(out).all():
        raise ValueError('mmcv.ops.MultiScaleDeformableAttention returned a wrong result')
