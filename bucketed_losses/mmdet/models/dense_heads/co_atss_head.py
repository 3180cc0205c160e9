"""ATSS as an auxiliary head of Co-DETR."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from mmdet.models.dense_heads import ATSSHead
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.utils import InstanceList
from mmengine.structures import InstanceData
from torch import Tensor

from ..recipes import Role, ranking_head
from .rank_based_atss_head import ATSS_RULES, RankBasedATSSHead

if TYPE_CHECKING:
    from mmdet.models.dense_heads import ATSSHead as _Host
else:
    _Host = object


class CoATSSHeadMixin(_Host):
    """A mixin for ``ATSSHead``: the head also returns its anchors with their targets and features."""

    log_name = 'atss'

    def get_targets(self, *args: Any, **kwargs: Any) -> tuple:
        targets = super().get_targets(*args, **kwargs)
        self._assigned = targets[:4]  # read and cleared below, within the same step
        return targets

    def loss_and_candidates(
        self, x: tuple[Tensor, ...], batch_data_samples: SampleList
    ) -> tuple[dict[str, Tensor], InstanceList]:
        """The head's losses, and the candidates of each image for :func:`~.draw_auxiliary_queries`.

        Args:
            x: Feature maps ``(batch, channels, H, W)``, one per level of the anchors.
            batch_data_samples: Samples with ground truth.
        """
        losses = self.loss(x, batch_data_samples)
        levels = self.__dict__.pop('_assigned')
        features = torch.cat([level.flatten(2).transpose(1, 2) for level in x], dim=1)
        candidates = []
        for image, image_features in enumerate(features):
            # ATSS regresses decoded boxes, so its targets are the ground-truth boxes.
            anchors, labels, label_weights, bbox_targets = (torch.cat([t[image] for t in level]) for level in levels)
            candidates.append(
                InstanceData(
                    priors=anchors,
                    labels=labels,
                    label_weights=label_weights,
                    bbox_targets=bbox_targets,
                    # Anchors at one location lie next to each other and share its feature.
                    features=image_features.repeat_interleave(len(anchors) // len(image_features), dim=0),
                )
            )
        return losses, candidates


@MODELS.register_module()
class CoATSSHead(CoATSSHeadMixin, ATSSHead):
    """``ATSSHead`` as an auxiliary head of :class:`~bucketed_losses.mmdet.models.detectors.CoDETR`."""


@ranking_head(CoATSSHead, role=Role.DENSE, rules=ATSS_RULES, unused=['loss_centerness'])
@MODELS.register_module()
class RankBasedCoATSSHead(CoATSSHeadMixin, RankBasedATSSHead):
    """``RankBasedATSSHead`` as an auxiliary head of :class:`~bucketed_losses.mmdet.models.detectors.CoDETR`."""
