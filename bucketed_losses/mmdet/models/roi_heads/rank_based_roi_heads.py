"""RoI heads without sampling, which pass the scores of the positives from the box head to the mask head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.task_modules.samplers import PseudoSampler, RandomSampler
from mmdet.registry import MODELS
from mmdet.utils import InstanceList
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..losses.box_weighting import balance_factor, box_weights, maps_without_bfloat16
from ..recipes import Inner, Part, Role, Rule, Setting, ranking_head
from ..rules import at, each, inner_heads
from .rank_based_bbox_heads import RankedRoIsMixin
from .rank_based_mask_head import RankingMaskHeadMixin

if TYPE_CHECKING:
    from mmdet.models.roi_heads import StandardRoIHead as _Host
else:
    _Host = object

# A number that is larger than that of the proposals of any image.
_UNLIMITED = 10**5


class RankingRoIHeadMixin(_Host):
    """A mixin for MMDetection's RoI heads: RoIs are not sampled, and the losses of masks are weighted by scores.

    If the ranking loss balances itself, the losses of masks are scaled to it, all of a stage together.

    Args:
        max_mask_positives: The largest number of positives in the batch of a process that masks are trained on. If
            there are more, these are drawn uniformly from the positives of all images.
        args, kwargs: As for the RoI head.

    Raises:
        ValueError: The box head or the mask head is not one of this package, the sampler leaves RoIs out, or there is
            a mask head without its own RoI extractor.

    Attributes:
        BOX_HEADS: The class that box heads derive from.
        EXAMPLES: The box head and the mask head that error messages recommend.
        MASK_LOSSES: Log names of the losses of masks that the stock head computes.
        MASK_FIELDS: The fields of a sampling result that masks are trained with.
    """

    BOX_HEADS: type[nn.Module] = RankedRoIsMixin
    EXAMPLES = ('RankBasedShared2FCBBoxHead', 'RankBasedFCNMaskHead')
    MASK_LOSSES: tuple[str, ...] = ('loss_mask',)
    MASK_FIELDS: tuple[str, ...] = ('pos_priors', 'pos_assigned_gt_inds', 'pos_gt_labels', 'pos_scores')

    def __init__(self, *args: Any, max_mask_positives: int = 200, **kwargs: Any) -> None:
        name = type(self).__name__
        if max_mask_positives < 1:
            raise ValueError(f'{name}: max_mask_positives must be at least 1, got {max_mask_positives}')
        super().__init__(*args, **kwargs)
        self.max_mask_positives = max_mask_positives
        for head in _as_list(self.bbox_head):
            if not isinstance(head, self.BOX_HEADS):
                raise ValueError(
                    f'{name}: bbox_head must be one of this package, e.g. {self.EXAMPLES[0]}, got {type(head).__name__}'
                )
        if self.with_mask:
            for head in _as_list(self.mask_head):
                if not isinstance(head, RankingMaskHeadMixin):
                    raise ValueError(
                        f'{name}: mask_head must be one of this package, e.g. {self.EXAMPLES[1]}, got '
                        f'{type(head).__name__}'
                    )
            if getattr(self, 'share_roi_extractor', False):  # SCNet's head always has a separate extractor
                raise ValueError(
                    f'{name}: mask_roi_extractor must be given; masks are trained on fewer RoIs than boxes'
                )

    def init_assigner_sampler(self) -> None:
        super().init_assigner_sampler()
        for sampler in _as_list(self.bbox_sampler):
            unlimited = isinstance(sampler, PseudoSampler) or (
                isinstance(sampler, RandomSampler)
                and sampler.num * min(sampler.pos_fraction, 1) >= _UNLIMITED
                and sampler.neg_pos_ub < 0
            )
            if not unlimited:
                raise ValueError(
                    f'{type(self).__name__}: a ranking loss needs no sampling, got {type(sampler).__name__} with '
                    f'num={getattr(sampler, "num", None)}; write '
                    "sampler=dict(_delete_=True, type='RandomSampler', num=1000000, pos_fraction=1.0, "
                    "add_gt_as_proposals=True) or type='PseudoSampler' in train_cfg.rcnn"
                )

    def loss(
        self, x: tuple[Tensor, ...], rpn_results_list: InstanceList, batch_data_samples: list, **kwargs: Any
    ) -> dict:
        """Losses of the boxes and masks; arguments as for the RoI head."""
        x = maps_without_bfloat16(x)
        bbox_heads, mask_heads = _as_list(self.bbox_head), _as_list(self.mask_head) if self.with_mask else []
        for bbox_head, mask_head in zip(bbox_heads[-len(mask_heads) :], mask_heads, strict=False):
            mask_head.shared = bbox_head.loss_cls.shared
        losses = super().loss(x, rpn_results_list, batch_data_samples, **kwargs)
        stages = [name.removesuffix('loss_mask') for name in losses if name.endswith('loss_mask')]  # '' or 's0.' ...
        for stage in stages:
            head = bbox_heads[int(stage[1:-1]) if stage else -1]
            if head.loss_cls.self_balancing:
                names = [stage + name for name in self.MASK_LOSSES]
                total = torch.stack([losses[name] for name in names]).sum()
                factor = balance_factor(total, self.ranking_losses_of(stage, losses), head.loss_cls.shared)
                losses.update({name: losses[name] * factor for name in names})
        return losses

    def predict(self, x: tuple[Tensor, ...], *args: Any, **kwargs: Any) -> InstanceList:
        """Detections; arguments as for the RoI head."""
        return super().predict(maps_without_bfloat16(x), *args, **kwargs)

    def ranking_losses_of(self, stage: str, losses: dict[str, Tensor]) -> list[Tensor]:
        """The ranking losses that the losses of masks of a stage are scaled to; ``stage`` is a prefix of log names."""
        head = _as_list(self.bbox_head)[int(stage[1:-1]) if stage else -1]
        return [losses[stage + part] for part in head.loss_cls.LOG_NAMES]

    def attach_scores(self, sampling_results: list, cls_score: Tensor, bbox_head: Any) -> tuple[Tensor, ...]:
        """Set ``pos_scores (num_pos,)`` of each sampling result: the weights of its positives in losses of masks.

        Returns:
            The weights ``(num_rois,)`` of all RoIs of each image.
        """
        weights = box_weights(cls_score, bbox_head.loss_cls.equal_box_weights)
        scores = weights.split([len(result.priors) for result in sampling_results])
        for result, image_scores in zip(sampling_results, scores, strict=True):
            result.pos_scores = image_scores[: len(result.pos_priors)]
        return scores

    def mask_positives(self, sampling_results: list) -> list[InstanceData]:
        """The positives that masks are trained on, one ``InstanceData`` per image."""
        return drawn_positives(sampling_results, self.MASK_FIELDS, self.max_mask_positives)


def drawn_positives(sampling_results: list, fields: Sequence[str], limit: int) -> list[InstanceData]:
    """The positives of each image, at most ``limit`` of them, drawn uniformly from those of all images.

    Args:
        sampling_results: Sampling results of the images.
        fields: The fields of a sampling result that are kept; each has one row per positive.
        limit: The largest number of positives.
    """
    positives = [InstanceData(**{name: getattr(result, name) for name in fields}) for result in sampling_results]
    sizes = [len(image) for image in positives]
    if sum(sizes) <= limit:
        return positives
    device = getattr(positives[0], fields[0]).device
    keep = torch.zeros(sum(sizes), dtype=torch.bool, device=device)
    keep[torch.randperm(sum(sizes), device=device)[:limit]] = True
    return [image[kept] for image, kept in zip(positives, keep.split(sizes), strict=True)]


def unused(module: nn.Module) -> Tensor:
    """0, connected to the parameters of a head that has no input in a batch without positives (DDP needs it)."""
    return 0 * torch.stack([parameter.sum() for parameter in module.parameters()]).sum()


def _as_list(value: Any) -> list:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple, nn.ModuleList)) else [value]


def _mask_heads() -> Rule:
    def apply(part: Part) -> Iterator[Inner | Setting]:
        for where in each(part.config.get('mask_head')):
            yield Inner(('mask_head', *where), Role.MASK)
            if part.config.get('mask_roi_extractor') is None:
                reason = 'masks are trained on fewer RoIs than boxes, so they need a separate extractor'
                extractor = part.config.get('bbox_roi_extractor')
                yield Setting(('mask_roi_extractor',), extractor, reason, is_the_users=True)

    return Rule(('mask_head', 'mask_roi_extractor'), apply)


def _all_proposals() -> Rule:
    def apply(part: Part) -> Iterator[Setting]:
        for where in each(part.train_cfg):
            old = at(part.train_cfg, where).get('sampler') or {}
            sampler = dict(
                type='RandomSampler',
                num=1000000,
                pos_fraction=1.0,
                neg_pos_ub=-1,
                add_gt_as_proposals=old.get('add_gt_as_proposals', True),
            )
            reason = 'all proposals are ranked: nothing is sampled'
            yield Setting((*where, 'sampler'), sampler, reason, 'train_cfg')

    return Rule(('train_cfg.sampler',), apply)


def _equal_stages() -> Rule:
    def apply(part: Part) -> Iterator[Setting]:
        weights = part.config.get('stage_loss_weights')
        if part.loss.balances_itself and isinstance(weights, (list, tuple)) and any(weight != 1 for weight in weights):
            reason = 'every stage counts equally, as published'
            yield Setting(('stage_loss_weights',), [1] * len(weights), reason)

    return Rule(('stage_loss_weights',), apply)


def _published_score_threshold() -> Rule:
    def apply(part: Part) -> Iterator[Setting]:
        if isinstance(part.test_cfg, dict) and 'score_thr' in part.test_cfg:
            lvis = any('LVIS' in name for name in part.dataset_types)
            reason = 'as published; ranking scores are not probabilities: choose your own threshold, or calibrate'
            yield Setting(('score_thr',), 0.60 if lvis else 0.40, reason, 'test_cfg')

    return Rule(('test_cfg.score_thr',), apply)


INNER_HEADS = (inner_heads('bbox_head', Role.BOX), _mask_heads())
"""Rules for the heads inside an RoI head."""

ROI_HEAD = (*INNER_HEADS, _all_proposals())
"""Rules of every RoI head that samples RoIs."""

TWO_STAGE = (*ROI_HEAD, _published_score_threshold())
"""Rules of an RoI head with one stage that makes the detections."""

CASCADE = (*ROI_HEAD, _equal_stages(), _published_score_threshold())
"""Rules of an RoI head with several stages."""


@ranking_head(StandardRoIHead, role=Role.ROI, rules=TWO_STAGE)
@MODELS.register_module()
class RankBasedRoIHead(RankingRoIHeadMixin, StandardRoIHead):
    """``StandardRoIHead`` for ranking losses; for Faster and Mask R-CNN."""

    def bbox_loss(self, x: tuple[Tensor, ...], sampling_results: list) -> dict:
        results = super().bbox_loss(x, sampling_results)
        if self.with_mask:
            self.attach_scores(sampling_results, results['cls_score'], self.bbox_head)
        return results

    def mask_loss(
        self, x: tuple[Tensor, ...], sampling_results: list, bbox_feats: Tensor, batch_gt_instances: InstanceList
    ) -> dict:
        return super().mask_loss(x, self.mask_positives(sampling_results), bbox_feats, batch_gt_instances)


@ranking_head(CascadeRoIHead, role=Role.ROI, rules=CASCADE)
@MODELS.register_module()
class RankBasedCascadeRoIHead(RankingRoIHeadMixin, CascadeRoIHead):
    """``CascadeRoIHead`` for ranking losses; for Cascade R-CNN and Cascade Mask R-CNN."""

    def bbox_loss(self, stage: int, x: tuple[Tensor, ...], sampling_results: list) -> dict:
        results = super().bbox_loss(stage, x, sampling_results)
        if self.with_mask:
            self.attach_scores(sampling_results, results['cls_score'], self.bbox_head[stage])
        return results

    def mask_loss(
        self, stage: int, x: tuple[Tensor, ...], sampling_results: list, batch_gt_instances: InstanceList
    ) -> dict:
        return super().mask_loss(stage, x, self.mask_positives(sampling_results), batch_gt_instances)
