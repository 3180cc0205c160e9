_base_ = './solov2_efficientnet-lite0_fpn_focal_1xb8-12e_shapes.py'

model = dict(mask_head=dict(type='RankBasedSOLOV2Head', loss_cls=dict(_delete_=True, type='BucketedRSLoss')))
