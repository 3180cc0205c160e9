_base_ = './yolof_efficientnet-lite0_focal_1xb8-12e_bccd.py'

model = dict(bbox_head=dict(type='RankBasedYOLOFHead', loss_cls=dict(_delete_=True, type='BucketedRSLoss')))
