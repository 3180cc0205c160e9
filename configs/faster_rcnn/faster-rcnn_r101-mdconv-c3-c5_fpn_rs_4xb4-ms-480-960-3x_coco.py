_base_ = './faster-rcnn_r101-mdconv-c3-c5_fpn_brs_4xb4-ms-480-960-3x_coco.py'

model = dict(
    rpn_head=dict(loss_cls=dict(type='RSLoss')),
    roi_head=dict(bbox_head=dict(loss_cls=dict(type='RSLoss'))),
)
