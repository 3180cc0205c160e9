"""A mask head for detectors with a ranking loss: it weights each positive by its score."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.registry import MODELS
from mmdet.utils import InstanceList
from torch import Tensor

from ..losses.box_weighting import at_least_float32, mean_over_processes
from ..recipes import Role, ranking_head


@ranking_head(FCNMaskHead, role=Role.MASK, rules=())
@MODELS.register_module()
class RankBasedFCNMaskHead(FCNMaskHead):
    """``FCNMaskHead`` with a loss that weights each positive by its highest class probability, as the box loss does.

    Use it in :class:`RankBasedRoIHead` or :class:`RankBasedCascadeRoIHead`, which pass it the scores.

    Args:
        loss_mask: Config of a loss per pixel. MMDetection's usual ``CrossEntropyLoss`` with ``use_mask=True`` does not
            accept weights. It is built with ``use_sigmoid=True`` instead, which gives the same loss of the same pixels.
        kwargs: As for :class:`mmdet.models.FCNMaskHead`.

    Attributes:
        shared: Whether the positives of all processes form one batch; the RoI head sets it from its ranking loss.
    """

    shared = False

    def __init__(self, *args: Any, loss_mask: dict | None = None, **kwargs: Any) -> None:
        loss_mask = dict(loss_mask or dict(type='CrossEntropyLoss', use_mask=True))
        if loss_mask.pop('use_mask', False):
            loss_mask['use_sigmoid'] = True
        super().__init__(*args, loss_mask=loss_mask, **kwargs)

    def loss_and_target(
        self, mask_preds: Tensor, sampling_results: list, batch_gt_instances: InstanceList, rcnn_train_cfg: dict
    ) -> dict:
        """Mask loss of the positives; arguments as for :meth:`mmdet.models.FCNMaskHead.loss_and_target`.

        Each sampling result must also have ``pos_scores (num_pos,)``.

        Returns:
            A dict with ``mask_targets``, and with ``loss_mask``, which is itself a dict with ``loss_mask``. This loss
            is 0 and connected to the predictions if there are no positives.
        """
        targets = self.get_targets(sampling_results, batch_gt_instances, rcnn_train_cfg)
        weights = torch.cat([result.pos_scores for result in sampling_results])
        total = mean_over_processes(weights.sum(), self.shared)
        if len(mask_preds) == 0:
            return dict(loss_mask=dict(loss_mask=at_least_float32(mask_preds).sum() * 0), mask_targets=targets)
        labels = torch.cat([result.pos_gt_labels for result in sampling_results])
        if self.class_agnostic:
            labels = torch.zeros_like(labels)
        own_class = labels.reshape(-1, 1, 1, 1).expand(-1, 1, *mask_preds.shape[2:])
        logits = at_least_float32(mask_preds.gather(1, own_class).flatten(1))
        loss = self.loss_mask(logits, targets.flatten(1), weight=weights[:, None], avg_factor=total * logits.shape[1])
        return dict(loss_mask=dict(loss_mask=loss), mask_targets=targets)
