_base_ = './cascade-rcnn_r50_fpn_brs_4xb4-1x_coco.py'

bbox_head = _base_.bbox_head
bbox_head['loss_cls'] = dict(type='RSLoss')
model = dict(
    rpn_head=dict(loss_cls=dict(type='RSLoss')),
    roi_head=dict(bbox_head=[bbox_head, bbox_head, bbox_head]),
)
