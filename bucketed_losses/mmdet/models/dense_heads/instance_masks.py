"""The masks of one-stage detectors whose box head computes the class scores and a mask head the masks.

The mask loss follows the published RS-YOLACT: positives are weighted by their scores, as in the box loss, and the loss
is scaled to the ranking loss. The box head passes both to the mask head, with its positives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from mmdet.utils import InstanceList
from torch import Tensor

from ..losses.box_weighting import balance_factor, box_weights, mean_by_score
from ..roi_heads.rank_based_roi_heads import unused
from .ranking_mixin import RankingHeadMixin, maps_by_image

if TYPE_CHECKING:
    from mmdet.models.dense_heads.base_mask_head import BaseMaskHead as _MaskHost
else:
    _MaskHost = object

MASKS_OF_RANKED_BOXES = 'trains masks with what the ranking box head says about its positives, and balances their loss'
"""The reason for the type of a mask head that the swap shows."""


class PositivesForMasksMixin(RankingHeadMixin):
    """A mixin for box heads that pass their positives to a mask head by ``get_positive_infos``.

    The ``InstanceData`` of each image has a further field, ``weights (num_pos,)``, the scores of the positives. Its
    metainfo has ``ranking_losses``, the parts of the ranking loss that masks are balanced with, detached, or None if
    the loss does not balance itself; and ``shared``, whether the positives of all processes form one batch.
    """

    def kept_for_masks(
        self, losses: dict[str, Tensor], cls_scores: list[Tensor], mask_params: list[Tensor], **infos: Any
    ) -> dict[str, Tensor]:
        """Keep what :meth:`get_positive_infos` reads.

        Args:
            losses: The losses of this head.
            cls_scores: Class logits ``(N, num_priors * num_classes, H, W)`` of every level.
            mask_params: What this head predicts for the masks, ``(N, ..., H, W)`` for every level.
            infos: What the stock head keeps.

        Returns:
            The losses, connected to ``mask_params``, which a mask head does not read if there are no positives.
        """
        self._raw_positive_infos.update(losses=losses, cls_scores=cls_scores, **infos)
        return {**losses, 'loss_bbox': losses['loss_bbox'] + 0 * torch.stack([p.sum() for p in mask_params]).sum()}

    def get_positive_infos(self) -> InstanceList:
        """The positives of each image; see the class."""
        infos = super().get_positive_infos()
        losses = self._raw_positive_infos['losses']
        balanced = self.loss_cls.self_balancing
        ranking = [losses[name].detach() for name in self.loss_cls.LOG_NAMES] if balanced else None
        logits = maps_by_image(self._raw_positive_infos['cls_scores'], self.cls_out_channels)
        for info, image_logits in zip(infos, logits, strict=True):
            positive = image_logits[info.pos_inds]
            info.weights = box_weights(positive, self.loss_cls.equal_box_weights)
            info.set_metainfo(dict(ranking_losses=ranking, shared=self.loss_cls.shared))
        return infos


class RankedMasksMixin(_MaskHost):
    """A mixin for the mask head of a one-stage detector, which gets its positives from a ranking box head."""

    def balanced(self, losses: dict[str, Tensor], positive_infos: InstanceList) -> dict[str, Tensor]:
        """Losses of masks, all scaled together to the ranking loss, if it balances itself.

        Args:
            losses: Scalars by log name.
            positive_infos: The positives of each image, as :class:`PositivesForMasksMixin` passes them.
        """
        ranking, shared = self.ranking_of(positive_infos)
        if ranking is None:
            return losses
        factor = balance_factor(torch.stack(list(losses.values())).sum(), ranking, shared)
        return {name: value * factor for name, value in losses.items()}

    def mean_mask_loss(
        self, losses: Sequence[Tensor], trained: Sequence[Tensor], positive_infos: InstanceList
    ) -> Tensor:
        """The mean of the losses of masks, weighted by scores.

        Args:
            losses: ``(n,)`` losses of the masks of each image that has some; or of their pixels, ``(n, h, w)``.
            trained: ``(n,)`` the positives of each image that masks are trained on.
            positive_infos: As for :meth:`balanced`.

        Returns:
            A scalar; 0 without masks.
        """
        _, shared = self.ranking_of(positive_infos)
        weights = torch.cat([info.weights[rows] for info, rows in zip(positive_infos, trained, strict=True)])
        if not losses:
            return mean_by_score(weights, weights, shared)
        per_mask = torch.cat([image.flatten(1).mean(dim=1) if image.dim() > 1 else image for image in losses])
        return mean_by_score(per_mask, weights, shared)

    def connected(self, losses: dict[str, Tensor], positive_infos: InstanceList) -> dict[str, Tensor]:
        """The losses; connected to all parameters of this head if there are no positives, which DDP needs."""
        if any(len(info) for info in positive_infos):
            return losses
        return {name: value + unused(self) for name, value in losses.items()}

    def ranking_of(self, positive_infos: InstanceList) -> tuple[list[Tensor] | None, bool]:
        """The metainfo ``ranking_losses`` and ``shared`` of the positives.

        Raises:
            ValueError: The box head is not a ranking head.
        """
        info = positive_infos[0]
        if 'weights' not in info:
            raise ValueError(
                f'{type(self).__name__}: bbox_head must be one of this package, got one whose positives have no '
                "weights; write type='RankBased...' for it, too"
            )
        return info.ranking_losses, info.shared


def by_image(rows: Tensor, level_sizes: list[int], num_images: int) -> Tensor:
    """Rows ``(n, ...)`` in the order of :func:`flatten_maps` as ``(num_images, n / num_images, ...)``."""
    levels = rows.split([size * num_images for size in level_sizes])
    return torch.cat([level.unflatten(0, (num_images, -1)) for level in levels], dim=1)
