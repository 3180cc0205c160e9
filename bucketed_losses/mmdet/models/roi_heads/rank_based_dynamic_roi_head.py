"""Dynamic R-CNN trained with ranking losses: its IoU thresholds adapt, and its box loss has nothing to adapt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from mmdet.models.roi_heads import DynamicRoIHead, StandardRoIHead
from mmdet.registry import MODELS

from ..recipes import Note, Part, Role, Rule, ranking_head
from .rank_based_roi_heads import TWO_STAGE, RankBasedRoIHead


def _no_beta() -> Rule:
    def apply(part: Part) -> Iterator[Note]:
        yield Note(
            'train_cfg.rcnn.dynamic_rcnn: initial_beta and beta_topk have no effect, because the box loss is on '
            'decoded boxes and has no beta; the IoU thresholds of the assigner still adapt'
        )

    return Rule((), apply, ('train_cfg.dynamic_rcnn.initial_beta', 'train_cfg.dynamic_rcnn.beta_topk'))


class _DynamicLabelRoIHead(StandardRoIHead):
    """``DynamicRoIHead`` without its dynamic SmoothL1 Loss, which it insists on when it is built."""

    iou_history: list[float]
    loss = DynamicRoIHead.loss

    def update_hyperparameters(self) -> tuple[float, None]:
        """Raise the IoU thresholds of the assigner to the mean of the history; the stock method also returns a beta."""
        threshold = max(self.train_cfg.dynamic_rcnn.initial_iou, float(np.mean(self.iou_history)))
        self.iou_history = []
        for name in ('pos_iou_thr', 'neg_iou_thr', 'min_pos_iou'):
            setattr(self.bbox_assigner, name, threshold)
        return threshold, None


@ranking_head(DynamicRoIHead, role=Role.ROI, rules=(*TWO_STAGE, _no_beta()))
@MODELS.register_module()
class RankBasedDynamicRoIHead(RankBasedRoIHead, _DynamicLabelRoIHead):
    """``DynamicRoIHead`` for ranking losses.

    Every ``update_iter_interval`` iterations, the IoU thresholds of the assigner become the mean of the IoUs that the
    ``iou_topk``-th best RoI of each image had since the last update, but at least ``initial_iou``. The other half of
    Dynamic R-CNN, the ``beta`` of SmoothL1 Loss on deltas, has no counterpart: the box loss is on decoded boxes.

    Attributes:
        iou_history: The IoUs since the last update.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.iou_history = []
