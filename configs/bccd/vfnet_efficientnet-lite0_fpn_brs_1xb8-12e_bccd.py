_base_ = './vfnet_efficientnet-lite0_fpn_vfl_1xb8-12e_bccd.py'

model = dict(bbox_head=dict(type='RankBasedVFNetHead', loss_cls=dict(_delete_=True, type='BucketedRSLoss')))
