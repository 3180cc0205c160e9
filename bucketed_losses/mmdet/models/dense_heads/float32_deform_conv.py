"""Deformable convolutions for bfloat16 autocast, which MMCV's operators do not support."""

from __future__ import annotations

from mmcv.ops import DeformConv2d
from torch import Tensor, nn

from ..losses.box_weighting import without_bfloat16


class Float32DeformConv2d(DeformConv2d):
    """MMCV's ``DeformConv2d`` for autocast: it converts bfloat16 inputs, which MMCV does not support, to float32."""

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """Features ``(N, channels, H, W)`` from ``x (N, channels, H, W)`` and its offsets."""
        return super().forward(without_bfloat16(x), without_bfloat16(offset))


def use_float32_deform_convs(module: nn.Module) -> None:
    """Replace every ``DeformConv2d`` inside a module by a new :class:`Float32DeformConv2d`; subclasses stay."""
    for name, part in module.named_children():
        if type(part) is DeformConv2d:
            conv = Float32DeformConv2d(
                part.in_channels,
                part.out_channels,
                part.kernel_size,
                part.stride,
                part.padding,
                part.dilation,
                part.groups,
                part.deform_groups,
            )
            setattr(module, name, conv)
        else:
            use_float32_deform_convs(part)
