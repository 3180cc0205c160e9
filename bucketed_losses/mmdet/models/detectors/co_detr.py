"""Co-Deformable-DETR: Deformable DETR trained together with auxiliary heads that use one-to-many assignment."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.detectors import DeformableDETR
from mmdet.registry import MODELS
from mmdet.structures import OptSampleList
from torch import Tensor, nn

from .auxiliary_heads import AuxiliaryHeadsMixin
from .auxiliary_queries import AuxiliaryQueryEmbedding


@MODELS.register_module()
class CoDETR(AuxiliaryHeadsMixin, DeformableDETR):
    """Co-Deformable-DETR: MMDetection's Deformable DETR with the auxiliary heads of Co-DETR
    (:class:`AuxiliaryHeadsMixin`).

    Without auxiliary heads and with ``mixed_selection=False`` this detector is ``DeformableDETR``. Losses of the query
    head are logged as ``loss_…`` (last decoder layer), ``d0.…`` (the others) and ``enc.…`` (encoder proposals).

    Args:
        args, kwargs: As for :class:`mmdet.models.DeformableDETR` and :class:`AuxiliaryHeadsMixin`. ``bbox_head`` is a
            ``CoDeformDETRHead`` or ``RankBasedCoDeformDETRHead``.
        mixed_selection: Learn the content of the queries, and take their positions from the encoder's best proposals.

    Raises:
        ValueError: As :class:`AuxiliaryHeadsMixin`, or ``mixed_selection`` is True and ``as_two_stage`` is False.
    """

    auxiliary_embedding = AuxiliaryQueryEmbedding

    def __init__(self, *args: Any, mixed_selection: bool = True, **kwargs: Any) -> None:
        self.mixed_selection = mixed_selection
        super().__init__(*args, **kwargs)
        if mixed_selection and not self.as_two_stage:
            raise ValueError(
                'CoDETR: mixed_selection=True takes the positions of queries from the proposals of the encoder, so it '
                'needs as_two_stage=True; write mixed_selection=False to learn both'
            )

    def _init_layers(self) -> None:
        super()._init_layers()
        if self.mixed_selection:
            self.query_embedding = nn.Embedding(self.num_queries, self.embed_dims)

    def pre_decoder(
        self,
        memory: Tensor,
        memory_mask: Tensor | None,
        spatial_shapes: Tensor,
        batch_data_samples: OptSampleList = None,
    ) -> tuple[dict, dict]:
        """Queries from the encoder's best proposals; arguments and returns as for ``DeformableDETR``.

        Locations without a proposal, in the padding and at the border of the image, are chosen last. An image with
        fewer locations than queries gets as many queries as it has locations. ``batch_data_samples`` is not used.
        """
        if not self.as_two_stage:
            return super().pre_decoder(memory, memory_mask, spatial_shapes)
        output_memory, anchors = self.gen_encoder_output_proposals(memory, memory_mask, spatial_shapes)
        valid = anchors.isfinite().all(dim=-1)
        logits = self.bbox_head.cls_branches[-1](output_memory)
        coords = self.bbox_head.reg_branches[-1](output_memory) + anchors
        # The first class stands for "object" in the encoder, as in Deformable DETR.
        objectness = logits[..., 0].masked_fill(~valid, torch.finfo(logits.dtype).min)
        num_queries = min(self.num_queries, memory.size(1))
        best = objectness.topk(num_queries, dim=1).indices[..., None].expand(-1, -1, 4)
        best_coords = coords.gather(1, best).detach()
        embedding = self.get_proposal_pos_embed(best_coords, self.embed_dims // 2)
        query_pos, query = self.pos_trans_norm(self.pos_trans_fc(embedding)).chunk(2, dim=-1)
        if self.mixed_selection:
            query = self.query_embedding.weight[:num_queries].expand(len(memory), -1, -1)
        queries = dict(query=query, query_pos=query_pos, memory=memory, reference_points=best_coords.sigmoid())
        proposals = dict(enc_outputs_class=logits, enc_outputs_coord=coords.sigmoid(), enc_outputs_valid=valid)
        return queries, proposals if self.training else {}
