"""Heads of an experiment: other ways to rank the denoising queries of DINO.

``docs/results.md`` compares them with ``RankBasedDINOHead``, which ranks the denoising queries of a decoder layer by
themselves, over all groups and images. Import this module in a config of DINO with a ranking loss:

    PYTHONPATH=tools/benchmarks python tools/train.py CONFIG --cfg-options \
        custom_imports.imports=[bucketed_losses.mmdet,denoising_variants] model.bbox_head.type=GroupDenoisingDINOHead
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.registry import MODELS
from mmdet.utils import InstanceList
from torch import Tensor

from bucketed_losses.mmdet.models.dense_heads.query_sets import QuerySet, QueryTargets
from bucketed_losses.mmdet.models.dense_heads.rank_based_dino_head import RankBasedDINOHead


class DenoisingVariant(RankBasedDINOHead):
    """``RankBasedDINOHead`` with other sets of denoising queries."""

    def losses_with_denoising(
        self,
        sets: Sequence[QuerySet],
        dn_logits: Tensor,
        dn_boxes: Tensor,
        batch_gt_instances: InstanceList,
        batch_img_metas: list[dict],
        dn_meta: dict[str, int],
    ) -> dict[str, Tensor]:
        denoising = self.denoising_sets(dn_logits, dn_boxes, batch_gt_instances, batch_img_metas, dn_meta)
        return self.query_losses(self.arrange(sets, denoising, dn_meta['num_denoising_groups']), batch_img_metas)

    def arrange(self, sets: Sequence[QuerySet], denoising: Sequence[QuerySet], num_groups: int) -> list[QuerySet]:
        """What is ranked.

        Args:
            sets: The decoder layers, and then other sets.
            denoising: The denoising queries of each decoder layer.
            num_groups: The number of groups that the denoising queries consist of.
        """
        raise NotImplementedError


@MODELS.register_module()
class GroupDenoisingDINOHead(DenoisingVariant):
    """Each group of denoising queries is ranked by itself, over all images; the losses are means over the groups."""

    def arrange(self, sets: Sequence[QuerySet], denoising: Sequence[QuerySet], num_groups: int) -> list[QuerySet]:
        groups = [
            _part(one, group, slice(group * size, (group + 1) * size))._replace(weight=1 / num_groups)
            for one in denoising
            for size in [one.logits.size(1) // num_groups]
            for group in range(num_groups)
        ]
        return [*sets, *groups]


@MODELS.register_module()
class ImageDenoisingDINOHead(DenoisingVariant):
    """The denoising queries of each image are ranked by themselves; the losses are means over the images."""

    def arrange(self, sets: Sequence[QuerySet], denoising: Sequence[QuerySet], num_groups: int) -> list[QuerySet]:
        images = [
            one._replace(
                prefix=_prefix(one, image),
                targets=one.targets._replace(weights=_of_image(one.targets.weights, image), positive=None),
                weight=1 / len(one.logits),
            )
            for one in denoising
            for image in range(len(one.logits))
        ]
        return [*sets, *images]


@MODELS.register_module()
class JointDenoisingDINOHead(DenoisingVariant):
    """The denoising queries of a decoder layer are ranked together with its matched queries."""

    def arrange(self, sets: Sequence[QuerySet], denoising: Sequence[QuerySet], num_groups: int) -> list[QuerySet]:
        num_layers = len(denoising)
        joint = [_joined(matched, noisy) for matched, noisy in zip(sets[:num_layers], denoising, strict=True)]
        return [*joint, *sets[num_layers:]]


def _prefix(one: QuerySet, index: int) -> str:
    return f'{one.prefix.removesuffix("_")}{index}_'


def _part(one: QuerySet, group: int, queries: slice) -> QuerySet:
    labels, weights, boxes, _ = one.targets
    targets = QueryTargets(labels[:, queries], weights[:, queries], boxes[:, queries])
    return QuerySet(_prefix(one, group), one.logits[:, queries], one.boxes[:, queries], targets)


def _of_image(weights: Tensor, image: int) -> Tensor:
    own = torch.zeros_like(weights)
    own[image] = weights[image]
    return own


def _joined(matched: QuerySet, noisy: QuerySet) -> QuerySet:
    if noisy.prefix != f'{matched.prefix}dn_':
        raise ValueError(f'the sets are of different decoder layers: {matched.prefix!r} and {noisy.prefix!r}')
    pairs = zip(matched.targets[:3], noisy.targets[:3], strict=True)
    targets = QueryTargets(*(torch.cat([first, second.to(first)], dim=1) for first, second in pairs))
    logits = torch.cat([matched.logits, noisy.logits], dim=1)
    return QuerySet(matched.prefix, logits, torch.cat([matched.boxes, noisy.boxes], dim=1), targets)
