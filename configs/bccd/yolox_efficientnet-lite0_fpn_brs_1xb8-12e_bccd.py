_base_ = './yolox_efficientnet-lite0_fpn_bce_1xb8-12e_bccd.py'

model = dict(bbox_head=dict(type='RankBasedYOLOXHead', loss_cls=dict(_delete_=True, type='BucketedRSLoss')))
