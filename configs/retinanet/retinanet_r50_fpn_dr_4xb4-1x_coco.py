_base_ = './retinanet_r50_fpn_brs_4xb4-1x_coco.py'

# Its box loss needs a weight, which self-balanced ones do not: that of ATSS.
model = dict(bbox_head=dict(loss_cls=dict(type='DRLoss'), loss_bbox=dict(loss_weight=2.0)))
optim_wrapper = dict(optimizer=dict(lr=0.01))
