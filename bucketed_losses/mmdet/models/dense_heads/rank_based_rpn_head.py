"""A region proposal network trained with a ranking loss on all of its anchors."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from mmdet.models.dense_heads import RPNHead
from mmdet.registry import MODELS
from mmdet.structures.bbox import get_box_tensor
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor

from ..losses.box_weighting import at_least_float32
from ..recipes import Part, Role, Rule, Setting, ranking_head
from ..rules import ANCHOR_HEAD, at, each
from .ranking_mixin import RankingDenseHeadMixin


def anchors_across_the_border() -> Rule:
    """``allowed_border`` becomes -1: anchors across the border are ranked, too."""

    def apply(part: Part) -> Iterator[Setting]:
        for where in each(part.train_cfg):
            if at(part.train_cfg, where).get('allowed_border', -1) >= 0:
                reason = 'all anchors are ranked, including those across the border'
                yield Setting((*where, 'allowed_border'), -1, reason, 'train_cfg')

    return Rule(('train_cfg.allowed_border',), apply)


@ranking_head(RPNHead, role=Role.PROPOSALS, rules=(*ANCHOR_HEAD, anchors_across_the_border()))
@MODELS.register_module()
class RankBasedRPNHead(RankingDenseHeadMixin, RPNHead):
    """``RPNHead`` without sampling: the anchors of all levels and images are ranked together.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        loss_bbox: Config of a loss on decoded boxes, e.g. ``GIoULoss``.
        head_weight: Factor on all losses of this head, applied after self-balancing.
        loss_stds: Standard deviations of the box coder in the loss; None for those of ``bbox_coder``. In the published
            BRS-DETR the two differ, which is a mistake: proposals are decoded with stds of 1, and its loss decodes the
            predicted and the target deltas with (0.1, 0.1, 0.2, 0.2), so that IoUs are those of distorted boxes. To
            train the same, set ``bbox_coder.target_stds`` and ``loss_stds`` to these values.
        kwargs: As for :class:`mmdet.models.RPNHead`.

    Raises:
        ValueError: As :class:`RankingDenseHeadMixin`, or ``loss_stds`` are not 4 numbers above 0.
    """

    classifiers = ('rpn_cls',)

    def __init__(
        self, *args: Any, head_weight: float = 0.2, loss_stds: Sequence[float] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.head_weight = head_weight
        self.loss_coder = None
        if loss_stds is not None:
            if len(loss_stds) != 4 or min(loss_stds) <= 0:
                raise ValueError(f'{type(self).__name__}: loss_stds must be 4 numbers above 0, got {loss_stds}')
            self.loss_coder = copy.copy(self.bbox_coder)
            self.loss_coder.stds = tuple(loss_stds)

    def predict_by_feat(self, cls_scores: list[Tensor], bbox_preds: list[Tensor], *args: Any, **kwargs: Any) -> Any:
        """Proposals; arguments as for :meth:`mmdet.models.RPNHead.predict_by_feat`. Training uses them too.

        MMCV's NMS supports neither bfloat16 nor, if an image has 10,000 boxes or more, float16.
        """
        cls_scores, bbox_preds = ([at_least_float32(level) for level in maps] for maps in (cls_scores, bbox_preds))
        return super().predict_by_feat(cls_scores, bbox_preds, *args, **kwargs)

    def target_boxes(self, priors: Tensor, boxes: Tensor) -> Tensor:
        """With ``loss_stds``, the boxes are encoded by ``bbox_coder`` and decoded by the coder of the loss."""
        if self.loss_coder is None:
            return boxes
        return get_box_tensor(self.loss_coder.decode(priors, self.bbox_coder.encode(priors, boxes)))

    def decode(self, priors: Tensor, predictions: Tensor) -> Tensor:
        return get_box_tensor((self.loss_coder or self.bbox_coder).decode(priors, predictions))

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """``loss_rpn_rank``, ``loss_rpn_sort`` (RS losses) and ``loss_rpn_bbox``."""
        losses = super().loss_by_feat(
            cls_scores, bbox_preds, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
        )
        return {name.replace('loss_', 'loss_rpn_'): self.head_weight * value for name, value in losses.items()}
