_base_ = './rtmdet_efficientnet-lite0_qfl_1xb8-12e_bccd.py'

model = dict(bbox_head=dict(type='RankBasedRTMDetSepBNHead', loss_cls=dict(_delete_=True, type='BucketedRSLoss')))
