_base_ = './ddod_efficientnet-lite0_fpn_focal_1xb8-12e_bccd.py'

model = dict(bbox_head=dict(type='RankBasedDDODHead', loss_cls=dict(_delete_=True, type='BucketedRSLoss')))
