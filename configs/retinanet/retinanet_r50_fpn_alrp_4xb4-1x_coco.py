_base_ = './retinanet_r50_fpn_brs_4xb4-1x_coco.py'

model = dict(bbox_head=dict(loss_cls=dict(type='aLRPLoss')))
