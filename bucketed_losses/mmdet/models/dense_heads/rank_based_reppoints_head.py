"""RepPoints trained with a ranking loss; it keeps the losses of the initial and of the refined points."""

from __future__ import annotations

from mmdet.models.dense_heads import RepPointsHead
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor

from ..losses import ranking_and_box_losses, score_weighted_box_loss
from ..losses.box_weighting import at_least_float32
from ..recipes import Role, ranking_head
from ..rules import decoded_box_loss, nothing_sampled, ranking_loss
from .float32_deform_conv import use_float32_deform_convs
from .ranking_mixin import RankingHeadMixin, flatten_maps, flatten_targets

# RepPoints weights the losses of the initial and of the refined boxes 1 : 2.
_RULES = (
    ranking_loss(),
    decoded_box_loss(1.0, 'loss_bbox_init', keep_weight=True),
    decoded_box_loss(2.0, 'loss_bbox_refine', keep_weight=True),
    nothing_sampled(),
)


@ranking_head(RepPointsHead, role=Role.DENSE, rules=_RULES)
@MODELS.register_module()
class RankBasedRepPointsHead(RankingHeadMixin, RepPointsHead):
    """``RepPointsHead`` trained with a ranking loss.

    All levels and images are ranked together. The positives are those of the refinement stage; the target of a positive
    is the IoU of the box of its refined points. The losses of both stages are on boxes of points, each at the positives
    of its own assigner. They are weighted by scores as in all heads of this package, and balanced together, so that the
    ratio of their weights does not change. They are logged as ``loss_pts_init`` and ``loss_pts_refine``, as in
    ``RepPointsHead``. aLRP Loss uses the errors of the refined boxes and balances their loss; the loss of the initial
    boxes keeps its weight.

    Args:
        loss_cls: Config of one of this package's ranking losses.
        loss_bbox_init, loss_bbox_refine: Configs of losses on decoded boxes, e.g. ``GIoULoss``.
        kwargs: As for :class:`mmdet.models.RepPointsHead`. ``init_cfg`` defaults to a classifier bias of 0.
    """

    classifiers = ('reppoints_cls_out',)
    box_losses = ('loss_bbox_init', 'loss_bbox_refine')

    def _init_layers(self) -> None:
        super()._init_layers()
        use_float32_deform_convs(self)

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        pts_preds_init: list[Tensor],
        pts_preds_refine: list[Tensor],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; arguments as for :meth:`mmdet.models.RepPointsHead.loss_by_feat`.

        Returns:
            ``loss_rank``, ``loss_sort`` (RS losses), ``loss_pts_init`` and ``loss_pts_refine``. If there is no
            positive, all are 0 and connected to the predictions, except with DR Loss or a memory.
        """
        sizes = [(level.size(2), level.size(3)) for level in cls_scores]
        centers, _ = self.get_points(sizes, batch_img_metas, cls_scores[0].device)
        by_points = self.train_cfg['init']['assigner']['type'] == 'PointAssigner'
        initial, refined = self.boxes_of(centers, pts_preds_init), self.boxes_of(centers, pts_preds_refine)
        proposals = [[level[image].detach() for level in initial] for image in range(len(batch_img_metas))]
        (labels_init, weights_init, targets_init), (labels, weights, targets) = (
            self.stage_targets(stage, candidates, sizes, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore)
            for stage, candidates in (
                ('init', centers if by_points else self.centers_to_bboxes(centers)),
                ('refine', proposals),
            )
        )
        positive_init, positive = self.positives(labels_init, weights_init), self.positives(labels, weights)
        logits = flatten_maps(cls_scores, self.cls_out_channels)
        loss_of_initial = score_weighted_box_loss(
            self.loss_bbox_init,
            flatten_targets(initial)[positive_init],
            targets_init[positive_init],
            logits[positive_init],
            self.loss_cls.shared,
            self.loss_cls.equal_box_weights,
        )
        losses = ranking_and_box_losses(
            self.loss_cls,
            self.loss_bbox_refine,
            logits,
            labels,
            weights,
            positive,
            flatten_targets(refined)[positive],
            targets[positive],
            self.image_rows([len(level) for level in centers[0]], len(batch_img_metas), labels.device),
            {'loss_pts_init': loss_of_initial},
        )
        losses['loss_pts_refine'] = losses.pop('loss_bbox')
        return losses

    def boxes_of(self, centers: list[list[Tensor]], pts_preds: list[Tensor]) -> list[Tensor]:
        """Boxes ``(num_imgs, n, 4)`` in pixels of the points of every level; arguments as for ``offset_to_pts``."""
        points = self.offset_to_pts(centers, [at_least_float32(level) for level in pts_preds])
        return [self.points2bbox(level.flatten(0, 1), y_first=False).view(*level.shape[:2], 4) for level in points]

    def stage_targets(
        self,
        stage: str,
        candidates: list[list[Tensor]],
        sizes: list[tuple[int, int]],
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: OptInstanceList,
    ) -> tuple[Tensor, ...]:
        """``labels (n,)``, ``label_weights (n,)`` and target boxes ``(n, 4)`` of a stage, of all levels."""
        _, flags = self.get_points(sizes, batch_img_metas, candidates[0][0].device)  # get_targets joins them in place
        levels = self.get_targets(
            [list(image) for image in candidates],
            flags,
            batch_gt_instances,
            batch_img_metas,
            batch_gt_instances_ignore,
            stage=stage,
        )
        return tuple(flatten_targets(part) for part in levels[:3])
