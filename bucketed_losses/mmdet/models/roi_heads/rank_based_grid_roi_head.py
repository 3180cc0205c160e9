"""Grid R-CNN trained with ranking losses."""

from __future__ import annotations

from typing import Any

from mmdet.models.roi_heads import GridRoIHead, StandardRoIHead
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox2roi
from torch import Tensor

from ..losses import self_balance
from ..losses.box_weighting import at_least_float32, mean_by_score
from ..recipes import Role, ranking_head
from .rank_based_mask_head import scores_of
from .rank_based_roi_heads import TWO_STAGE, RankingRoIHeadMixin, drawn_positives, unused


@ranking_head(GridRoIHead, role=Role.ROI, rules=TWO_STAGE)
@MODELS.register_module()
class RankBasedGridRoIHead(RankingRoIHeadMixin, GridRoIHead):
    """``GridRoIHead`` for ranking losses; for Grid R-CNN.

    The box head has no regression, so the RoIs are ranked by their own IoUs. The loss of the grid points takes the
    place of the box loss: each positive is weighted by its score, and the loss is balanced to the ranking loss. At
    most ``train_cfg.max_num_grid`` positives are drawn for it, and moved at random, as in the stock head.
    """

    def bbox_loss(
        self, x: tuple[Tensor, ...], sampling_results: list, batch_img_metas: list[dict] | None = None
    ) -> dict:
        """Losses of RoIs and grid points; arguments as for :meth:`mmdet.models.GridRoIHead.bbox_loss`."""
        results = StandardRoIHead.bbox_loss(self, x, sampling_results)
        losses = results['loss_bbox']
        self.attach_scores(sampling_results, results['cls_score'], self.bbox_head)
        positives = drawn_positives(sampling_results, _FIELDS, self.train_cfg.get('max_num_grid', 192))
        loss_cls = self.bbox_head.loss_cls
        loss_grid = self._grid_loss(x, self._random_jitter(positives, batch_img_metas), loss_cls.shared)
        if loss_cls.self_balancing:
            loss_grid = self_balance(loss_grid, [losses[name] for name in loss_cls.LOG_NAMES], loss_cls.shared)
        losses['loss_grid'] = loss_grid
        return results

    def _grid_loss(self, x: tuple[Tensor, ...], positives: list, shared: bool) -> Tensor:
        """The loss of the heat maps of positives, fused and unfused; 0 and connected if there are none."""
        for image in positives:
            image.pos_bboxes = image.pos_priors  # the name in the stock grid head
        scores = scores_of(positives)
        if len(scores) == 0:
            # The norms of the grid head fail without input; other processes may have positives.
            return mean_by_score(scores, scores, shared) + unused(self.grid_head)
        features = self.grid_roi_extractor(
            x[: self.grid_roi_extractor.num_inputs], bbox2roi([image.pos_priors for image in positives])
        )
        if self.with_shared_head:
            features = self.shared_head(features)
        maps: dict[str, Tensor] = self.grid_head(features)
        targets = self.grid_head.get_targets(positives, self.train_cfg)
        losses: Any = 0
        for logits in (maps['fused'], maps['unfused']):
            pixels = self.grid_head.loss_grid(at_least_float32(logits), targets, reduction_override='none')
            losses = losses + pixels.flatten(1).mean(dim=1)
        return mean_by_score(losses, scores, shared)


# The fields of a sampling result that the grid head and its RoI extractor read.
_FIELDS = ('pos_priors', 'pos_gt_bboxes', 'pos_scores')
