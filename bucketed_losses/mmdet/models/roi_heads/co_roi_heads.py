"""The RoI head of Faster R-CNN as an auxiliary head of Co-DETR."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.utils import InstanceList
from mmengine.structures import InstanceData
from torch import Tensor

from ..recipes import Role, ranking_head
from .rank_based_roi_heads import ROI_HEAD, RankBasedRoIHead

if TYPE_CHECKING:
    from mmdet.models.roi_heads import StandardRoIHead as _Host
else:
    _Host = object


class CoRoIHeadMixin(_Host):
    """A mixin for ``StandardRoIHead``: the head also returns its RoIs with their targets and pooled features."""

    log_name = 'roi'

    @property
    def num_classes(self) -> int:
        return self.bbox_head.num_classes

    def bbox_loss(self, x: tuple[Tensor, ...], sampling_results: list) -> dict:
        results = super().bbox_loss(x, sampling_results)
        self._pooled = sampling_results, results['bbox_feats']  # read and cleared below, within the same step
        return results

    def loss_and_candidates(
        self, x: tuple[Tensor, ...], rpn_results_list: InstanceList, batch_data_samples: SampleList
    ) -> tuple[dict[str, Tensor], InstanceList]:
        """The head's losses, and the candidates of each image for :func:`~.draw_auxiliary_queries`.

        Arguments are those of :meth:`mmdet.models.StandardRoIHead.loss`.
        """
        losses = self.loss(x, rpn_results_list, batch_data_samples)
        sampling_results, bbox_feats = self.__dict__.pop('_pooled')
        features = bbox_feats.mean(dim=(2, 3)).split([len(result.priors) for result in sampling_results])
        candidates = []
        for result, image_features in zip(sampling_results, features, strict=True):
            num_neg = len(result.neg_priors)
            candidates.append(
                InstanceData(
                    priors=result.priors,
                    labels=torch.cat(
                        [result.pos_gt_labels, result.pos_gt_labels.new_full((num_neg,), self.num_classes)]
                    ),
                    label_weights=result.priors.new_ones(len(result.priors)),
                    bbox_targets=torch.cat([result.pos_gt_bboxes, result.priors.new_zeros(num_neg, 4)]),
                    features=image_features,
                )
            )
        return losses, candidates


@MODELS.register_module()
class CoStandardRoIHead(CoRoIHeadMixin, StandardRoIHead):
    """``StandardRoIHead`` as an auxiliary head of :class:`~bucketed_losses.mmdet.models.detectors.CoDETR`."""


@ranking_head(CoStandardRoIHead, role=Role.ROI, rules=ROI_HEAD)
@MODELS.register_module()
class RankBasedCoRoIHead(CoRoIHeadMixin, RankBasedRoIHead):
    """``RankBasedRoIHead`` as an auxiliary head of :class:`~bucketed_losses.mmdet.models.detectors.CoDETR`."""
