"""Decoder queries from the positives of auxiliary heads: Co-DETR's customized positive queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from mmdet.structures.bbox import bbox_xyxy_to_cxcywh
from mmdet.utils import InstanceList
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..dense_heads.query_sets import QueryTargets, to_device


@dataclass
class AuxiliaryQueries:
    """One group of decoder queries, made from the candidates of one auxiliary head.

    Attributes:
        boxes: ``(batch, n, 4)`` boxes of the candidates, normalised cx cy w h.
        features: ``(batch, n, embed_dims)`` features of the candidates.
        targets: Their targets, as assigned by the auxiliary head.
    """

    boxes: Tensor
    features: Tensor
    targets: QueryTargets


def count_positives(heads: Sequence[InstanceList], num_classes: int) -> list[list[int]]:
    """The number of positives of each image, for the candidates of several heads. The host synchronises once.

    Args:
        heads: The candidates of each head, as for :func:`draw_auxiliary_queries`, of the same images.
        num_classes: The label of background.
    """
    counts = [torch.stack([_positive(image, num_classes).sum() for image in images]) for images in heads]
    return torch.stack(counts).tolist()


def draw_auxiliary_queries(
    candidates: InstanceList,
    batch_img_metas: list[dict],
    num_classes: int,
    least: int,
    most: int,
    num_positives: Sequence[int] | None = None,
) -> AuxiliaryQueries:
    """Draw the same number of candidates from each image: the most positives of any image, limited to [least, most].

    Positives are drawn first; an image with more than ``most`` positives gives a random selection of them. Then random
    negatives are drawn. If an image has too few candidates, boxes of the whole image with weight 0 fill its group; they
    do not contribute to the losses. The draw uses PyTorch's default generator on the candidates' device.

    Args:
        candidates: One per image: ``priors (m, 4)``, x1 y1 x2 y2 in pixels; ``labels (m,)``, ``num_classes`` for
            background; ``label_weights (m,)``, 0 for ignored; ``bbox_targets (m, 4)``, the ground truth of positives,
            x1 y1 x2 y2 in pixels; ``features (m, embed_dims)``.
        batch_img_metas: Dicts with ``img_shape``, ``(height, width)``.
        num_classes: The label of background.
        least: The smallest number of candidates per image.
        most: The largest number of candidates per image.
        num_positives: The number of positives of each image; None counts them (:func:`count_positives`).
    """
    if num_positives is None:
        (num_positives,) = count_positives([candidates], num_classes)
    num = min(max(*num_positives, least), most)
    drawn = []
    for image, meta in zip(candidates, batch_img_metas, strict=True):
        positive = _positive(image, num_classes)
        # Positives lie in [2, 2.5], negatives in [1, 1.5], ignored candidates in [0, 0.5].
        priority = 0.5 * torch.rand(len(image), device=positive.device) + positive + (image.label_weights > 0)
        chosen = image[priority.topk(min(num, len(image))).indices]
        height, width = meta['img_shape']
        size = to_device([width, height, width, height], chosen.priors)
        if len(chosen) < num:
            chosen = InstanceData.cat([chosen, _fillers(chosen, num - len(chosen), size, num_classes)])
        chosen.priors = bbox_xyxy_to_cxcywh(chosen.priors / size)
        chosen.bbox_targets = bbox_xyxy_to_cxcywh(chosen.bbox_targets / size)
        drawn.append(chosen)

    def batched(name: str) -> Tensor:
        return torch.stack([getattr(image, name) for image in drawn])

    labels = batched('labels')
    # topk has put the positives of each image first.
    rows = [index * num + row for index, count in enumerate(num_positives) for row in range(min(count, num))]
    targets = QueryTargets(labels, batched('label_weights'), batched('bbox_targets'), to_device(rows, labels))
    return AuxiliaryQueries(batched('priors'), batched('features'), targets)


def _positive(image: InstanceData, num_classes: int) -> Tensor:
    return (image.labels < num_classes) & (image.label_weights > 0)


def _fillers(like: InstanceData, num: int, size: Tensor, num_classes: int) -> InstanceData:
    whole_image = torch.cat([torch.zeros_like(size[:2]), size[:2]]).expand(num, 4)
    return InstanceData(
        priors=whole_image,
        labels=like.labels.new_full((num,), num_classes),
        label_weights=like.label_weights.new_zeros(num),
        bbox_targets=like.bbox_targets.new_zeros(num, 4),
        features=like.features.new_zeros(num, like.features.size(1)),
    )


class AuxiliaryQueryEmbedding(BaseModule):
    """Computes decoder queries from :class:`AuxiliaryQueries`; each auxiliary head has its own projections.

    ``query = LN(W_b sine(box))_content + LN(W_f feature)`` and
    ``query_pos = LN(W_b sine(box))_position + head_embedding``.

    Args:
        num_co_heads: Number of auxiliary heads.
        embed_dims: Channels of queries and features.
    """

    def __init__(self, num_co_heads: int, embed_dims: int) -> None:
        super().__init__()
        # The original code passes (num_co_heads, 1, 1, embed_dims) to nn.Embedding and gets a weight of shape
        # (num_co_heads, 1), one number for all channels. This seems unintended, and is not repeated here.
        self.head_embedding = nn.Embedding(num_co_heads, embed_dims)
        self.pos_trans_fc = nn.ModuleList([nn.Linear(2 * embed_dims, 2 * embed_dims) for _ in range(num_co_heads)])
        self.pos_trans_norm = nn.ModuleList([nn.LayerNorm(2 * embed_dims) for _ in range(num_co_heads)])
        self.feature_trans_fc = nn.ModuleList([nn.Linear(embed_dims, embed_dims) for _ in range(num_co_heads)])
        self.feature_trans_norm = nn.ModuleList([nn.LayerNorm(embed_dims) for _ in range(num_co_heads)])

    def init_weights(self) -> None:
        super().init_weights()
        for layer in [*self.pos_trans_fc, *self.feature_trans_fc]:
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, index: int, box_embedding: Tensor, features: Tensor) -> dict[str, Tensor]:
        """Inputs of the decoder: ``query`` and ``query_pos``, each ``(batch, n, embed_dims)``.

        Args:
            index: Number of the auxiliary head.
            box_embedding: ``(batch, n, 2 * embed_dims)`` sine embedding of the boxes.
            features: ``(batch, n, embed_dims)``.
        """
        box = self.pos_trans_norm[index](self.pos_trans_fc[index](box_embedding))
        query_pos, query = box.chunk(2, dim=-1)
        query = query + self.feature_trans_norm[index](self.feature_trans_fc[index](features))
        return dict(query=query, query_pos=query_pos + self.head_embedding.weight[index])


class AuxiliaryContentEmbedding(BaseModule):
    """Computes the content of decoder queries from :class:`AuxiliaryQueries`, ``query = LN(W_b sine(box))``.

    Each auxiliary head has its own projection. The features of the candidates are not used, as in the published
    Co-DINO (``with_coord_feat=False`` in all its configs).

    Args:
        num_co_heads: Number of auxiliary heads.
        embed_dims: Channels of queries.
    """

    def __init__(self, num_co_heads: int, embed_dims: int) -> None:
        super().__init__()
        self.pos_trans_fc = nn.ModuleList([nn.Linear(2 * embed_dims, embed_dims) for _ in range(num_co_heads)])
        self.pos_trans_norm = nn.ModuleList([nn.LayerNorm(embed_dims) for _ in range(num_co_heads)])

    def init_weights(self) -> None:
        super().init_weights()
        for layer in [*self.pos_trans_fc]:
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, index: int, box_embedding: Tensor, features: Tensor) -> dict[str, Tensor]:
        """The decoder's input ``query (batch, n, embed_dims)``; arguments as for :class:`AuxiliaryQueryEmbedding`."""
        return dict(query=self.pos_trans_norm[index](self.pos_trans_fc[index](box_embedding)))
