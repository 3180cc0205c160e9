"""FSAF trained with a ranking loss; it keeps the choice of a level for each object."""

from __future__ import annotations

import torch
from mmdet.models.dense_heads import FSAFHead
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor

from ..losses.box_weighting import nan_if_not_finite
from ..recipes import Role, ranking_head
from ..rules import ANCHOR_HEAD
from .ranking_mixin import RankingDenseHeadMixin, flatten_maps, flatten_targets
from .score_assignment import CandidateScoreMixin


@ranking_head(FSAFHead, role=Role.DENSE, rules=ANCHOR_HEAD, unused=['score_threshold'])
@MODELS.register_module()
class RankBasedFSAFHead(CandidateScoreMixin, RankingDenseHeadMixin, FSAFHead):
    """``FSAFHead`` trained with a ranking loss.

    All levels and images are ranked together. As in ``FSAFHead``, an object is trained on the level where the mean loss
    of its positives is smallest. This loss is the sum of ``loss_score``, which gets shifted logits, and the box loss.
    On the other levels, the logits of the object's class are ignored at these positives. The target of a positive is
    the IoU of its box. The head does not log ``num_pos`` and ``pos_recall``.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        loss_score, score_prior: As for :class:`CandidateScoreMixin`.
        kwargs: As for :class:`mmdet.models.FSAFHead`. ``init_cfg`` defaults to a classifier bias of 0.
    """

    classifiers = ('retina_cls',)
    # The bias of the boxes keeps their sides positive at the start, as in FSAFHead.
    default_init = dict(
        type='Normal', layer='Conv2d', std=0.01, override=dict(type='Normal', name='retina_reg', std=0.01, bias=0.25)
    )

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as for :meth:`mmdet.models.FSAFHead.loss_by_feat`."""
        sizes = [level.shape[-2:] for level in cls_scores]
        anchors, flags = self.get_anchors(sizes, batch_img_metas, device=cls_scores[0].device)
        priors = self.flat_priors(anchors)
        level_labels, level_weights, level_targets, _, _, level_objects = self.get_targets(
            anchors, flags, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
        )
        logits = flatten_maps(cls_scores, self.cls_out_channels)
        predictions = flatten_maps(bbox_preds, 4)
        sides = predictions.clamp(min=1e-4)  # no box without an area
        labels, label_weights, bbox_targets = (
            flatten_targets(levels) for levels in (level_labels, level_weights, level_targets)
        )
        positive = self.positives(labels, label_weights)
        chosen = self.on_best_level(
            self.candidate_losses(logits, sides, priors, labels, bbox_targets, positive),
            flatten_targets(batch_objects(level_objects, batch_gt_instances))[positive],
            flatten_targets([torch.full_like(labels, level) for level, labels in enumerate(level_labels)])[positive],
            sum(len(image) for image in batch_gt_instances),
        )
        others = positive[~chosen]
        label_weights[others, labels[others]] = 0
        labels[others] = self.num_classes
        losses = self.ranking_losses(
            logits,
            sides,
            priors,
            labels,
            label_weights,
            bbox_targets,
            self.image_rows([level.size(1) for level in level_labels], len(batch_img_metas), priors.device),
        )
        return nan_if_not_finite(losses, predictions)  # losses of boxes decide the level of an object

    @torch.no_grad()
    def candidate_losses(
        self, logits: Tensor, sides: Tensor, priors: Tensor, labels: Tensor, bbox_targets: Tensor, positive: Tensor
    ) -> Tensor:
        """``(num_pos,)`` losses of the positives: ``loss_score`` over all classes, and the box loss."""
        if len(positive) == 0:
            return logits.new_zeros(0)
        score = self.loss_score(logits[positive] + self.score_shift, labels[positive], reduction_override='none')
        boxes = self.decode(priors[positive], sides[positive])
        return score.sum(dim=1) + self.loss_bbox(boxes, bbox_targets[positive], reduction_override='none')

    @staticmethod
    def on_best_level(losses: Tensor, objects: Tensor, levels: Tensor, num_objects: int) -> Tensor:
        """Whether a positive is on the level where the mean loss of the positives of its object is smallest.

        Args:
            losses, objects, levels: ``(num_pos,)`` the loss, the index of the object in the batch, and the level.
            num_objects: The number of objects in the batch.
        """
        num_levels = int(levels.max()) + 1 if len(levels) else 1
        cells = levels * num_objects + objects
        sums = losses.new_zeros(num_levels * num_objects).index_add_(0, cells, losses)
        counts = torch.bincount(cells, minlength=num_levels * num_objects)
        means = torch.where(counts > 0, sums / counts, torch.inf).reshape(num_levels, num_objects)
        best = means.argmin(dim=0) if num_objects else levels
        return best[objects] == levels


def batch_objects(levels: list[Tensor], images: InstanceList) -> list[Tensor]:
    """Indices of objects in the batch, ``(num_imgs, num_anchors)`` per level, from indices in the image; -1: none."""
    counts = torch.tensor([0, *(len(image) for image in images[:-1])], device=levels[0].device)
    first = counts.cumsum(0).unsqueeze(1)
    return [torch.where(level >= 0, level + first, -1) for level in levels]
