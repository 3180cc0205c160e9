"""Query heads of MMDetection and their ranking forms: small heads with predictions, and small whole detectors."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import torch
from detr_reference import Query, best_assignment
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import InstanceList
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from swap_survey import CONFIGS
from torch import Tensor

NUM_CLASSES = 4
NUM_LAYERS = 2
SIZES = [(160, 100), (60, 90)]  # width and height
METAS = [dict(img_shape=size[::-1]) for size in SIZES]
SHIFT = -math.log(99)  # logits that start at 0 are read as probabilities that start at 0.01
STOCK = {
    'DETRHead': 'detr/detr_r50_8xb2-150e_coco.py',
    'ConditionalDETRHead': 'conditional_detr/conditional-detr_r50_8xb2-50e_coco.py',
    'DABDETRHead': 'dab_detr/dab-detr_r50_8xb2-50e_coco.py',
    'DeformableDETRHead': 'deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py',
    'DINOHead': 'dino/dino-4scale_r50_8xb2-12e_coco.py',
    'DDQDETRHead': 'ddq/ddq-detr-4scale_r50_8xb2-12e_coco.py',
}
"""A config of MMDetection for each head."""

ENCODER = ('DeformableDETRHead', 'DINOHead', 'DDQDETRHead')
DENOISING = ('DINOHead', 'DDQDETRHead')
COSTS = [
    dict(type='FocalLossCost', weight=4.0),
    dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
    dict(type='IoUCost', iou_mode='giou', weight=2.0),
]
NUM_QUERIES, NUM_DENSE, NUM_GROUPS, DENSE_POSITIVES = 6, 7, 2, 2


def small_head(stock: str, loss: str, ranking: bool = True, **settings: Any) -> Any:
    """A head with few channels and initial weights."""
    init_default_scope('mmdet')
    config = dict(
        type=f'RankBased{stock}' if ranking else stock,
        num_classes=NUM_CLASSES,
        embed_dims=16,
        loss_cls=dict(type=loss, loss_weight=2.0, **({} if ranking else dict(use_sigmoid=True))),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0),
        loss_iou=dict(type='GIoULoss', loss_weight=2.0),
        train_cfg=dict(assigner=dict(type='HungarianAssigner', match_costs=COSTS)),
    )
    if stock in ENCODER:
        config.update(num_pred_layer=NUM_LAYERS + 1, as_two_stage=True)
    if stock == 'DDQDETRHead':
        config.update(aux_num_pos=DENSE_POSITIVES)
    head = MODELS.build({**config, **settings})
    head.init_weights()
    return head


def truth() -> InstanceList:
    """Three objects and one."""
    return [
        InstanceData(
            bboxes=torch.tensor([[20.0, 30, 90, 70], [70, 10, 150, 60], [5, 5, 60, 90]]), labels=torch.tensor([2, 0, 2])
        ),
        InstanceData(bboxes=torch.tensor([[10.0, 20, 40, 60]]), labels=torch.tensor([3])),
    ]


def nothing() -> InstanceList:
    """Two images without objects."""
    return [InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64)) for _ in range(2)]


def one_of_two() -> InstanceList:
    """Three objects and none."""
    return [truth()[0], nothing()[1]]


def normalised(objects: InstanceData, size: tuple[int, int]) -> Tensor:
    """Boxes of objects, cx cy w h in fractions of the image."""
    x1, y1, x2, y2 = objects.bboxes.unbind(1)
    return torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], 1) / torch.tensor([*size, *size])


def random_predictions(seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(*shape, NUM_CLASSES, generator=generator)
    centres = torch.rand(*shape, 2, generator=generator) * 0.4 + 0.3
    boxes = torch.cat([centres, torch.rand(*shape, 2, generator=generator) * 0.3 + 0.1], dim=-1)
    return logits.requires_grad_(), boxes.requires_grad_()


class Case(NamedTuple):
    """Predictions of a head, and the queries of each set by the prefix of their log names, found by brute force."""

    arguments: list[Any]  # of loss_by_feat
    keywords: dict[str, Any]
    leaves: list[Tensor]
    sets: dict[str, list[Query]]


def case(head: Any, stock: str, objects: InstanceList | None = None, dn_padding_ignored: bool = True) -> Case:
    """Random predictions for ``loss_by_feat`` of a head, and the targets of all its queries."""
    objects = truth() if objects is None else objects
    most = max(len(image) for image in objects)
    num_dn = 2 * most * NUM_GROUPS if stock in DENOISING else 0
    num_dense = NUM_DENSE if stock == 'DDQDETRHead' else 0
    logits, boxes = random_predictions(1, NUM_LAYERS, 2, num_dn + NUM_QUERIES + num_dense)
    arguments, leaves, keywords = [logits, boxes], [logits, boxes], {}
    distinct = torch.ones(NUM_LAYERS, 2, NUM_QUERIES, dtype=torch.bool)
    if stock == 'DDQDETRHead':
        distinct[1, 0, 4] = distinct[1, 1, :2] = False
        masks = distinct[1].repeat_interleave(3, dim=0)[:, None].expand(-1, NUM_QUERIES, -1)
        head.cache_dict = dict(distinct_query_mask=[masks], num_heads=3)
    sets = {}
    for layer, prefix in enumerate(('d0.', '')):
        own = slice(num_dn, num_dn + NUM_QUERIES)
        sets[prefix] = matched(logits[layer][:, own], boxes[layer][:, own], objects, distinct[layer])
    if stock in ENCODER:
        encoder = random_predictions(2, 2, 8)
        arguments += encoder
        leaves += encoder
        sets['enc_'] = matched(*encoder, objects, first_class=stock == 'DeformableDETRHead')
    arguments += [objects, METAS]
    if stock in DENOISING:
        dn_meta = dict(num_denoising_queries=num_dn, num_denoising_groups=NUM_GROUPS)
        arguments.append(dn_meta)
    if stock == 'DDQDETRHead':
        dn_meta['num_dense_queries'] = num_dense
        dense = random_predictions(3, 2, NUM_DENSE)
        keywords.update(aux_enc_cls_scores=dense[0], aux_enc_bbox_preds=dense[1])
        leaves += dense
        for layer in range(NUM_LAYERS):
            tail = logits[layer][:, -num_dense:], boxes[layer][:, -num_dense:]
            sets[f'{layer}_aux_aux_'] = densely_matched(*tail, objects)
        sets['aux_enc_aux_'] = densely_matched(*dense, objects)
    if stock in DENOISING:
        for layer, prefix in enumerate(('d0.dn_', 'dn_')):
            own = logits[layer][:, :num_dn], boxes[layer][:, :num_dn]
            sets[prefix] = denoising(*own, objects, most, dn_padding_ignored)
    return Case(arguments, keywords, leaves, sets)


def of_image(head: Any, given: Case, image: int) -> Case:
    """The same predictions of one image, as new leaves; the masks of distinct queries that ``head`` has become its."""

    def own(values: Any) -> Any:
        if isinstance(values, Tensor):
            values = values.detach()
            return (values[:, image : image + 1] if values.dim() == 4 else values[image : image + 1]).requires_grad_()
        return values[image : image + 1] if isinstance(values, list) else values

    if given.keywords:  # DDQ's
        num = head.cache_dict['num_heads']
        masks = head.cache_dict['distinct_query_mask']
        head.cache_dict['distinct_query_mask'] = [mask[image * num : (image + 1) * num] for mask in masks]
    arguments = [own(value) for value in given.arguments]
    keywords = {name: own(value) for name, value in given.keywords.items()}
    leaves = [value for value in (*arguments, *keywords.values()) if isinstance(value, Tensor)]
    return Case(arguments, keywords, leaves, {})


def matched(
    logits: Tensor, boxes: Tensor, objects: InstanceList, valid: Tensor | None = None, first_class: bool = False
) -> list[Query]:
    """One query for each object, by trying all assignments; queries that are not valid are ignored."""
    queries = []
    for image, (own, size) in enumerate(zip(objects, SIZES, strict=True)):
        targets, labels = normalised(own, size), [0] * len(own) if first_class else own.labels.tolist()
        chosen = list(range(logits.size(1))) if valid is None else valid[image].nonzero().flatten().tolist()
        with torch.no_grad():
            order = best_assignment(logits[image, chosen] + SHIFT, boxes[image, chosen], labels, targets, size, 4.0)
        pairs = {chosen[q]: g for g, q in enumerate(order)}
        queries += as_queries(
            logits[image], boxes[image], pairs, labels, targets, size, ignored=set(range(logits.size(1))) - set(chosen)
        )
    return queries


def densely_matched(logits: Tensor, boxes: Tensor, objects: InstanceList) -> list[Query]:
    """``DENSE_POSITIVES`` queries for each object; the class cost of DDQ's assigner takes the sigmoid of a score."""
    queries = []
    for image, (own, size) in enumerate(zip(objects, SIZES, strict=True)):
        targets, labels, num = normalised(own, size), own.labels.tolist(), logits.size(1)
        copies = [g for g in range(len(own)) for _ in range(min(DENSE_POSITIVES, num // len(own)))]
        with torch.no_grad():
            order = best_assignment(
                (logits[image] + SHIFT).sigmoid(),
                boxes[image],
                [labels[g] for g in copies],
                targets[copies],
                size,
                2.0,
                l1_of_corners=True,
            )
        pairs = {q: copies[index] for index, q in enumerate(order)}
        ignored = set() if len(own) else set(range(num))
        queries += as_queries(logits[image], boxes[image], pairs, labels, targets, size, ignored)
    return queries


def denoising(logits: Tensor, boxes: Tensor, objects: InstanceList, most: int, padding_ignored: bool) -> list[Query]:
    """In each group first all objects, then as many negatives; each half has ``most`` places."""
    queries = []
    for image, (own, size) in enumerate(zip(objects, SIZES, strict=True)):
        pairs, used = {}, set()
        for group in range(NUM_GROUPS):
            for g in range(len(own)):
                place = group * 2 * most + g
                pairs[place] = g
                used |= {place, place + most}
        ignored = set(range(logits.size(1))) - used if padding_ignored else set()
        labels = own.labels.tolist()
        queries += as_queries(logits[image], boxes[image], pairs, labels, normalised(own, size), size, ignored)
    return queries


def as_queries(
    logits: Tensor,
    boxes: Tensor,
    pairs: dict[int, int],
    labels: list[int],
    targets: Tensor,
    size: tuple[int, int],
    ignored: set[int],
) -> list[Query]:
    return [
        Query(
            logits[q],
            boxes[q],
            labels[pairs[q]] if q in pairs else NUM_CLASSES,
            targets[pairs[q]] if q in pairs else boxes[q].detach(),
            size,
            q in ignored,
        )
        for q in range(len(logits))
    ]


def small_config(stock: str) -> Config:
    """A stock config with few layers, channels and queries."""
    cfg = Config.fromfile(CONFIGS / STOCK[stock])
    model = cfg.model
    model.backbone.update(depth=18, init_cfg=None)
    model.neck.in_channels = [width // 4 for width in model.neck.in_channels]
    for stack in (model.encoder, model.decoder):
        stack.num_layers = NUM_LAYERS
        stack.layer_cfg.ffn_cfg.feedforward_channels = 32
    model.num_queries = 20
    model.bbox_head.num_classes = NUM_CLASSES
    model.test_cfg = dict(max_per_img=10)
    if 'dn_cfg' in model:
        model.dn_cfg.group_cfg = dict(dynamic=True, num_groups=None, num_dn_queries=10)
    return cfg


def build(model: Any, seed: int = 0) -> Any:
    init_default_scope('mmdet')
    torch.manual_seed(seed)
    detector = MODELS.build(copy.deepcopy(model))
    detector.init_weights()
    return detector


def batch(detector: Any, num_items: tuple[int, int] = (2, 3), training: bool = True) -> dict[str, Any]:
    """Two images of noise and different sizes."""
    with_mask = getattr(detector, 'with_mask', False)
    inputs = demo_mm_inputs(
        2, [[3, 128, 128], [3, 128, 64]], num_classes=NUM_CLASSES, num_items=list(num_items), with_mask=with_mask
    )
    return detector.data_preprocessor(inputs, training=training)


def shake(module: Any, seed: int = 1, scale: float = 0.05) -> Any:
    """Random weights everywhere: fresh ones give all locations the same scores and no offsets."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return module


def same_predictions(some: Any, others: Any) -> bool:
    """Whether the predictions of all images are bitwise equal."""
    pairs = [
        (dict(mine.pred_instances.items()), dict(theirs.pred_instances.items()))
        for mine, theirs in zip(some, others, strict=True)
    ]
    return all(
        mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
        for mine, theirs in pairs
    )
