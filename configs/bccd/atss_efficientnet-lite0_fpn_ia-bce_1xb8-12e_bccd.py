_base_ = ['./atss_efficientnet-lite0_fpn_focal_1xb8-12e_bccd.py', '../_base_/models/rivals.py']

# IoUs as targets, without centerness. The box loss keeps ATSS's weight of 2 and is weighted by scores, as in GFL.
model = dict(bbox_head=dict(type='RankBasedATSSHead', classifier_prior=0.01, loss_cls=_base_.rival_ia_bce))
