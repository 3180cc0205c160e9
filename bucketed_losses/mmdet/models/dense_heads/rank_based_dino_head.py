"""DINO trained with a ranking loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmdet.models.dense_heads import DINOHead
from mmdet.models.utils import multi_apply
from mmdet.registry import MODELS
from mmdet.utils import InstanceList, OptInstanceList
from torch import Tensor, nn

from ..losses import RankingLoss
from ..recipes import Note, Part, Role, Rule, ranking_head
from ..rules import QUERY_HEAD
from .plain_query_losses import cannot_train_queries, plain_query_losses
from .query_ranking import QueryRankingMixin
from .query_sets import QuerySet, QueryTargets, layer_prefix, matched_layers, matched_proposals


def _average_of_denoising_queries() -> Rule:
    def apply(part: Part) -> Iterator[Note]:
        if 'sync_cls_avg_factor' in part.config:
            yield Note(f'{part.path}.sync_cls_avg_factor has no effect, unless you give loss_dn_cls')

    return Rule((), apply, ('sync_cls_avg_factor',))


DENOISING_HEAD = (*QUERY_HEAD, _average_of_denoising_queries())
"""Rules of a head with queries and denoising queries."""


class RankingDenoisingMixin(QueryRankingMixin):
    """A mixin for ``DINOHead`` and heads that derive from it: the decoder also gets denoising queries.

    Denoising queries are made of objects with noise, and have known targets: half of them their objects, the other
    half background. They fill groups of the same size in all images.

    Args:
        loss_dn_cls: Config of a classification loss with sigmoid scores for the denoising queries, e.g. ``FocalLoss``.
            These queries then have the losses of the stock head. None ranks them: those of each decoder layer by
            themselves, apart from the matched queries. Queries that only fill a group are ignored then.
        classifier_prior: As for ``ClassifierMixin``. The default is 0.5, a bias of 0, if the denoising queries are
            ranked. With ``loss_dn_cls`` it is 0.01, as in ``DINOHead``: the same classifiers have that loss, too.
        args, kwargs: As for :class:`QueryRankingMixin`.

    Raises:
        ValueError: As :class:`QueryRankingMixin`; or ``loss_dn_cls`` is a ranking loss, reads a softmax, or takes other
            arguments than ``FocalLoss`` or ``QualityFocalLoss``.
    """

    classifiers: tuple[str, ...] = ('cls_branches',)

    def __init__(
        self, *args: Any, loss_dn_cls: dict | None = None, classifier_prior: float | None = None, **kwargs: Any
    ) -> None:
        if classifier_prior is None:
            classifier_prior = 0.5 if loss_dn_cls is None else 0.01
        super().__init__(*args, classifier_prior=classifier_prior, **kwargs)
        self.loss_dn_cls = None if loss_dn_cls is None else self._plain_loss(loss_dn_cls)

    def _plain_loss(self, config: dict) -> nn.Module:
        loss = MODELS.build(config)
        if isinstance(loss, RankingLoss) or not getattr(loss, 'use_sigmoid', False):
            raise ValueError(
                f'{type(self).__name__}: loss_dn_cls must be a classification loss with use_sigmoid=True, e.g. '
                f'FocalLoss, got {type(loss).__name__}; leave loss_dn_cls out to rank the denoising queries'
            )
        refusal = cannot_train_queries(loss, self.num_classes)
        if refusal:
            raise ValueError(
                f'{type(self).__name__}: loss_dn_cls must take logits and labels as FocalLoss does, and '
                f'{type(loss).__name__} does not ({refusal}); leave loss_dn_cls out to rank the denoising queries'
            )
        return loss

    def losses_with_denoising(
        self,
        sets: Sequence[QuerySet],
        dn_logits: Tensor,
        dn_boxes: Tensor,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        dn_meta: dict[str, int],
    ) -> dict[str, Tensor]:
        """Losses of some sets and of the denoising queries of all decoder layers, by log name.

        Args:
            sets: Other sets of queries.
            dn_logits: ``(num_layers, batch, num_denoising_queries, num_classes)``.
            dn_boxes: ``(num_layers, batch, num_denoising_queries, 4)``, normalised cx cy w h.
            batch_gt_instances: Objects of each image.
            batch_img_metas: Dicts with ``img_shape``, ``(height, width)``.
            dn_meta: ``num_denoising_queries`` and ``num_denoising_groups``.
        """
        denoising = self.denoising_sets(dn_logits, dn_boxes, batch_gt_instances, batch_img_metas, dn_meta)
        if self.loss_dn_cls is None:
            return self.query_losses([*sets, *denoising], batch_img_metas)
        plain = plain_query_losses(self, self.loss_dn_cls, denoising, batch_img_metas)
        return self.query_losses(sets, batch_img_metas) | plain

    def denoising_sets(
        self,
        dn_logits: Tensor,
        dn_boxes: Tensor,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        dn_meta: dict[str, int],
    ) -> list[QuerySet]:
        """The denoising queries of each decoder layer; arguments as for :meth:`losses_with_denoising`."""
        targets = self.denoising_targets(batch_gt_instances, batch_img_metas, dn_meta)
        return [
            QuerySet(f'{layer_prefix(layer, len(dn_logits))}dn_', logits, boxes, targets)
            for layer, (logits, boxes) in enumerate(zip(dn_logits, dn_boxes, strict=True))
        ]

    def denoising_targets(
        self, batch_gt_instances: InstanceList, batch_img_metas: list[dict], dn_meta: dict[str, int]
    ) -> QueryTargets:
        """The targets of the denoising queries, which are those of every decoder layer."""
        labels, weights, boxes, _, positive, negative = (
            list(values)
            for values in multi_apply(self._get_dn_targets_single, batch_gt_instances, batch_img_metas, dn_meta=dn_meta)
        )
        num = dn_meta['num_denoising_queries']
        if self.loss_dn_cls is None:
            weights = [
                torch.zeros_like(all_weights).index_fill(0, torch.cat([own, other]), 1)
                for all_weights, own, other in zip(weights, positive, negative, strict=True)
            ]
        rows = torch.cat([own + image * num for image, own in enumerate(positive)])
        return QueryTargets(torch.stack(labels), torch.stack(weights), torch.stack(boxes), rows)


@ranking_head(DINOHead, role=Role.QUERIES, rules=DENOISING_HEAD)
@MODELS.register_module()
class RankBasedDINOHead(RankingDenoisingMixin, DINOHead):
    """``DINOHead`` trained with a ranking loss.

    Each decoder layer, the encoder's proposals and the denoising queries of each decoder layer are ranked by themselves
    (:class:`QueryRankingMixin`). ``loss_rank`` and ``loss_sort`` are logged in place of ``loss_cls``.
    ``loss_dn_cls`` keeps another loss for the denoising queries (:class:`RankingDenoisingMixin`).
    """

    baseline = 'DINOHead'

    def loss_by_feat(
        self,
        all_layers_cls_scores: Tensor,
        all_layers_bbox_preds: Tensor,
        enc_cls_scores: Tensor | None,
        enc_bbox_preds: Tensor | None,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        dn_meta: dict[str, int],
        batch_gt_instances_ignore: OptInstanceList = None,
        auxiliary: Sequence[QuerySet] = (),
    ) -> dict[str, Tensor]:
        """Losses by log name; arguments as for ``DINOHead``, and ``auxiliary``: further sets of queries.

        ``batch_gt_instances_ignore`` is not used.
        """
        logits, boxes, dn_logits, dn_boxes = self.split_outputs(all_layers_cls_scores, all_layers_bbox_preds, dn_meta)
        sets = matched_layers(self, logits, boxes, batch_gt_instances, batch_img_metas)
        sets += matched_proposals(self, 'enc_', enc_cls_scores, enc_bbox_preds, batch_gt_instances, batch_img_metas)
        return self.losses_with_denoising(
            [*sets, *auxiliary], dn_logits, dn_boxes, batch_gt_instances, batch_img_metas, dn_meta
        )
