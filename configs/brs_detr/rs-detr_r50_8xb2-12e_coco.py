"""The exact RS Loss in place of BRS Loss, in every part of the detector; 8 GPUs with 2 images each, as there."""

_base_ = './brs-detr_r50_8xb2-12e_coco.py'

model = dict(
    bbox_head=dict(loss_cls=dict(type='RSLoss')),
    rpn_head=dict(loss_cls=dict(type='RSLoss')),
    roi_heads=dict(bbox_head=dict(loss_cls=dict(type='RSLoss'))),
    dense_heads=dict(loss_cls=dict(type='RSLoss')),
)
