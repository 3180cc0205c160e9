"""Deformable convolutions under autocast with bfloat16, which MMCV's operator does not support."""

from __future__ import annotations

from mmcv.ops import DeformConv2d

from .rank_based_vfnet_head import StarDeformConv2d


def for_autocast(conv: DeformConv2d) -> StarDeformConv2d:
    """A new convolution with the settings of ``conv`` that converts bfloat16 inputs to float32."""
    return StarDeformConv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        conv.deform_groups,
    )
