"""Auxiliary heads with one-to-many assignment, which train a detector of the Deformable DETR family: Co-DETR."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.utils import rename_loss_dict, unpack_gt_instances
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.utils import InstanceList
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from ..dense_heads.query_sets import QuerySet
from ..losses.box_weighting import at_least_float32
from ..recipes import Layout, Role, Slot, holds_heads
from .auxiliary_queries import count_positives, draw_auxiliary_queries

if TYPE_CHECKING:
    from mmdet.models.detectors import DeformableDETR as _Host
else:
    _Host = object

QUERY_HEAD = 'query'


# These are the published weights of the ranking losses of auxiliary heads; the query head's recipe sets its own weight.
# The learning rate is not changed, because the optimizer is AdamW.
_LAYOUT = Layout(
    (
        Slot('bbox_head', (Role.QUERIES,), required=True),
        Slot('rpn_head', (Role.PROPOSALS,), ('rpn',), loss_weight=5.0),
        Slot('roi_heads', (Role.ROI,), ('rcnn',), loss_weight=5.0, several=True),
        Slot('dense_heads', (Role.DENSE,), ('dense',), loss_weight=5.0, several=True),
    )
)


@holds_heads(_LAYOUT)
class AuxiliaryHeadsMixin(_Host):
    """A mixin for MMDetection's ``DeformableDETR`` and ``DINO``: auxiliary heads of `DETRs with Collaborative Hybrid
    Assignments Training <https://arxiv.org/abs/2211.12860>`_.

    Auxiliary heads read the encoder's feature maps and one additional map, the last one downsampled by 2. Each head is
    trained as usual. Its positives also become a group of decoder queries, with the targets that the head has assigned.
    Each group passes through the decoder by itself, after the queries of the detector, so no group sees another. The
    loss is the paper's Eq. 15: ``bbox_head`` has lambda_1, and lambda_2 is part of the loss weights of the auxiliary
    heads.

    The losses of auxiliary heads are logged as ``rpn_…`` or ``loss_rpn_…``, ``roi0.…`` and ``atss1.…`` (by the number
    of the head), and those of the queries made from them as ``aux0.…``, ``aux1.d0.…``.

    Args:
        args, kwargs: As for the detector. ``bbox_head`` is the query head; it has a method ``auxiliary_sets``
            (:class:`~bucketed_losses.mmdet.models.dense_heads.AuxiliarySetsMixin`).
        rpn_head: Config of the RPN that all RoI heads share; required if there are RoI heads.
        roi_heads: Config of an auxiliary RoI head, e.g. ``CoStandardRoIHead``, or a list of such.
        dense_heads: Config of an auxiliary dense head, e.g. ``CoATSSHead``, or a list of such. Auxiliary heads are
            numbered consecutively, RoI heads first.
        num_co_heads: Number of auxiliary heads. It is only compared with the lengths of the two lists.
        max_pos_coords: The largest number of queries per image from one auxiliary head.
        min_pos_coords: The smallest number.
        train_cfg: ``assigner`` of the query head as for the detector; ``rpn``, ``rpn_proposal`` and ``rcnn`` as for
            ``FasterRCNN``; ``dense``. ``rcnn`` and ``dense`` are one dict for all heads or a list of one per head.
        test_cfg: ``max_per_img`` as for the detector; ``rpn``, ``rcnn``, ``dense``; and ``head``, the head that
            computes the detections: ``'query'`` (default), or an auxiliary head by its log name, e.g. ``'roi0'``.

    Attributes:
        auxiliary_embedding: The class of the module that computes queries from boxes and features.

    Raises:
        ValueError: ``num_co_heads`` is not the number of heads; there are RoI heads without an RPN, or an RPN without
            RoI heads; a head cannot be an auxiliary head, or has another number of classes; or ``test_cfg.head`` does
            not exist.
    """

    auxiliary_embedding: ClassVar[type[BaseModule]]

    def __init__(
        self,
        *args: Any,
        rpn_head: dict | None = None,
        roi_heads: dict | Sequence[dict] = (),
        dense_heads: dict | Sequence[dict] = (),
        num_co_heads: int | None = None,
        max_pos_coords: int = 300,
        min_pos_coords: int = 9,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, train_cfg=train_cfg, test_cfg=test_cfg, **kwargs)
        own = type(self).__name__
        roi_heads, dense_heads = _as_list(roi_heads), _as_list(dense_heads)
        found = len(roi_heads) + len(dense_heads)
        if num_co_heads not in (None, found):
            raise ValueError(
                f'{own}: num_co_heads={num_co_heads}, but there are {found} auxiliary heads: {len(roi_heads)} in '
                f'roi_heads and {len(dense_heads)} in dense_heads; leave out num_co_heads'
            )
        if bool(roi_heads) != bool(rpn_head):
            raise ValueError(
                f'{own}: roi_heads need one rpn_head, and an rpn_head needs roi_heads; got {len(roi_heads)} RoI heads '
                f'and rpn_head={rpn_head and rpn_head["type"]!r}'
            )
        if not 1 <= min_pos_coords <= max_pos_coords:
            raise ValueError(
                f'{own}: 1 <= min_pos_coords <= max_pos_coords must hold, got {min_pos_coords} and {max_pos_coords}'
            )
        self.max_pos_coords = max_pos_coords
        self.min_pos_coords = min_pos_coords

        if rpn_head:
            self.rpn_head = MODELS.build({'num_classes': 1, **rpn_head, **self._cfgs('rpn', 1)[0]})
        self.roi_heads = self._auxiliary_heads('roi_heads', roi_heads, 'rcnn')
        self.dense_heads = self._auxiliary_heads('dense_heads', dense_heads, 'dense')
        auxiliary = [*self.roi_heads, *self.dense_heads]
        self.head_names = [f'{head.log_name}{index}' for index, head in enumerate(auxiliary)]
        classes = {name: head.num_classes for name, head in zip(self.head_names, auxiliary, strict=True)}
        if set(classes.values()) - {self.bbox_head.num_classes}:
            raise ValueError(
                f'{own}: all heads must have the same num_classes, got {self.bbox_head.num_classes} in bbox_head and '
                f'{classes} in the auxiliary heads'
            )
        if found:
            self.downsample = nn.Sequential(
                nn.Conv2d(self.embed_dims, self.embed_dims, 3, stride=2, padding=1),
                nn.GroupNorm(32, self.embed_dims),
            )
            self.auxiliary_queries = self.auxiliary_embedding(found, self.embed_dims)
        self.detecting_head = (test_cfg or {}).get('head', QUERY_HEAD)
        if self.detecting_head not in (QUERY_HEAD, *self.head_names):
            raise ValueError(
                f'{own}: test_cfg.head must be one of {[QUERY_HEAD, *self.head_names]}, got {self.detecting_head!r}'
            )

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Any]:
        """Losses by log name; arguments as for the detector."""
        encoded, decoder_inputs, sizes = self.encode(batch_inputs, batch_data_samples)
        queries, proposals = self.pre_decoder(**encoded, batch_data_samples=batch_data_samples)
        decoded = self.forward_decoder(**queries, **decoder_inputs)
        losses: dict[str, Any] = {}
        auxiliary: list[QuerySet] = []
        if self.head_names:
            losses, auxiliary = self.train_auxiliary_heads(encoded['memory'], decoder_inputs, sizes, batch_data_samples)
        return losses | self.bbox_head.loss(
            **proposals, **decoded, batch_data_samples=batch_data_samples, auxiliary=auxiliary
        )

    def encode(
        self, batch_inputs: Tensor, batch_data_samples: SampleList
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], list[torch.Size]]:
        """The outputs of the encoder, the inputs of the decoder except for the queries, and the sizes of the maps."""
        maps = self.extract_feat(batch_inputs)
        encoder_inputs, decoder_inputs = self.pre_transformer(maps, batch_data_samples)
        return self.forward_encoder(**encoder_inputs), decoder_inputs, [level.shape[-2:] for level in maps]

    def train_auxiliary_heads(
        self,
        memory: Tensor,
        decoder_inputs: dict[str, Tensor],
        sizes: Sequence[torch.Size],
        batch_data_samples: SampleList,
    ) -> tuple[dict[str, Any], list[QuerySet]]:
        """Losses of the auxiliary heads, and what the decoder predicts for the queries made from them.

        Args:
            memory: ``(batch, num_locations, embed_dims)`` output of the encoder.
            decoder_inputs: The other inputs of the decoder, except for the queries.
            sizes: ``(height, width)`` of every level of ``memory``.
            batch_data_samples: Samples with ground truth.
        """
        maps = self.auxiliary_maps(memory, sizes)
        losses: dict[str, Any] = {}
        trained: list[tuple[dict[str, Any], InstanceList]] = []
        if self.roi_heads:
            losses, proposals = self.rpn_loss_and_predict(maps, batch_data_samples)
        for head in self.roi_heads:
            # A RoI head renames fields of the proposals that it receives, so it gets a copy.
            trained.append(head.loss_and_candidates(maps, copy.deepcopy(proposals), batch_data_samples))
        for head in self.dense_heads:
            trained.append(head.loss_and_candidates(maps, batch_data_samples))

        metas = [sample.metainfo for sample in batch_data_samples]
        counts = count_positives([candidates for _, candidates in trained], self.bbox_head.num_classes)
        sets: list[QuerySet] = []
        for index, (head_losses, candidates) in enumerate(trained):
            losses |= rename_loss_dict(f'{self.head_names[index]}.', head_losses)
            group = draw_auxiliary_queries(
                candidates, metas, self.bbox_head.num_classes, self.min_pos_coords, self.max_pos_coords, counts[index]
            )
            embedding = self.get_proposal_pos_embed(group.boxes.logit(eps=1e-5), self.embed_dims // 2)
            queries = self.auxiliary_queries(index, embedding, group.features)
            decoded = self.forward_decoder(**queries, memory=memory, reference_points=group.boxes, **decoder_inputs)
            sets += self.bbox_head.auxiliary_sets(f'aux{index}.', **decoded, targets=group.targets)
        return losses, sets

    def rpn_loss_and_predict(
        self, maps: tuple[Tensor, ...], batch_data_samples: SampleList
    ) -> tuple[dict[str, Any], InstanceList]:
        """The RPN's losses, named as in MMDetection's two-stage detectors, and its proposals.

        The RPN is run as by ``loss_and_predict``, but its outputs become float32 under autocast: MMCV's NMS fails in
        float16 if an image has 10,000 boxes or more.
        """
        objects = copy.deepcopy(batch_data_samples)
        for sample in objects:
            sample.gt_instances.labels = torch.zeros_like(sample.gt_instances.labels)
        proposal_cfg = self.train_cfg.get('rpn_proposal', self.rpn_head.test_cfg)
        if type(self.rpn_head).loss_and_predict is BaseDenseHead.loss_and_predict:
            instances, ignored, metas = unpack_gt_instances(objects)
            outputs = [[at_least_float32(level) for level in levels] for levels in self.rpn_head(maps)]
            losses = self.rpn_head.loss_by_feat(*outputs, instances, metas, ignored)
            proposals = self.rpn_head.predict_by_feat(*outputs, batch_img_metas=metas, cfg=proposal_cfg)
        else:  # a head of several stages
            losses, proposals = self.rpn_head.loss_and_predict(maps, objects, proposal_cfg=proposal_cfg)
        return {key if 'rpn' in key else f'rpn_{key}': value for key, value in losses.items()}, proposals

    def auxiliary_maps(self, memory: Tensor, sizes: Sequence[torch.Size]) -> tuple[Tensor, ...]:
        """The encoder's output as maps ``(batch, embed_dims, H, W)``, and one additional level."""
        levels = memory.split([height * width for height, width in sizes], dim=1)
        # Contiguous: the reshaped views are channels-last, which mmcv's RoIAlign misreads (mmcv issue 2203).
        maps = [
            level.transpose(1, 2).reshape(len(memory), -1, *size).contiguous()
            for level, size in zip(levels, sizes, strict=True)
        ]
        return (*maps, self.downsample(maps[-1]))

    def predict(self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True) -> SampleList:
        """Detections of the head that ``test_cfg.head`` names; no other head is run."""
        if self.detecting_head == QUERY_HEAD:
            return super().predict(batch_inputs, batch_data_samples, rescale=rescale)
        encoded, _, sizes = self.encode(batch_inputs, batch_data_samples)
        maps = self.auxiliary_maps(encoded['memory'], sizes)
        index = self.head_names.index(self.detecting_head)
        if index < len(self.roi_heads):
            proposals = self.rpn_head.predict(maps, batch_data_samples, rescale=False)
            results = self.roi_heads[index].predict(maps, proposals, batch_data_samples, rescale=rescale)
        else:
            results = self.dense_heads[index - len(self.roi_heads)].predict(maps, batch_data_samples, rescale=rescale)
        return self.add_pred_to_datasample(batch_data_samples, results)

    def _auxiliary_heads(self, name: str, configs: Sequence[dict], key: str) -> ModuleList:
        cfgs = self._cfgs(key, len(configs))
        heads = ModuleList([MODELS.build({**config, **cfg}) for config, cfg in zip(configs, cfgs, strict=True)])
        for index, head in enumerate(heads):
            if not hasattr(head, 'loss_and_candidates'):
                raise ValueError(
                    f'{type(self).__name__}: {name}[{index}] is a {type(head).__name__}, which does not return its '
                    'positives; use CoStandardRoIHead or RankBasedCoRoIHead in roi_heads, CoATSSHead or '
                    'RankBasedCoATSSHead in dense_heads'
                )
        return heads

    def _cfgs(self, key: str, num: int) -> list[dict]:
        """``train_cfg`` and ``test_cfg`` of ``num`` heads; the config gives one for all heads, or a list."""
        both = {}
        for name, cfg in (('train_cfg', self.train_cfg), ('test_cfg', self.test_cfg)):
            value = (cfg or {}).get(key)
            values = list(value) if isinstance(value, (list, tuple)) else [value] * num
            if len(values) != num:
                raise ValueError(f'{type(self).__name__}: {name}.{key} has {len(values)} entries for {num} heads')
            both[name] = values
        return [dict(zip(both, pair, strict=True)) for pair in zip(*both.values(), strict=True)]


def _as_list(configs: dict | Sequence[dict]) -> list[dict]:
    return [configs] if isinstance(configs, dict) else list(configs)
