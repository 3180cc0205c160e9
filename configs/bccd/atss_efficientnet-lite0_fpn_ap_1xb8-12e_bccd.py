_base_ = './atss_efficientnet-lite0_fpn_focal_1xb8-12e_bccd.py'

# The box loss keeps ATSS's weight of 2: AP losses are not self-balanced.
model = dict(bbox_head=dict(type='RankBasedATSSHead', loss_cls=dict(_delete_=True, type='APLoss')))
