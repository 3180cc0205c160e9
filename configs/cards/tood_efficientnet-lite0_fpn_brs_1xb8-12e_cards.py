_base_ = './tood_efficientnet-lite0_fpn_qfl_1xb8-12e_cards.py'

model = dict(bbox_head=dict(type='RankBasedTOODHead', loss_cls=dict(_delete_=True, type='BucketedRSLoss')))
