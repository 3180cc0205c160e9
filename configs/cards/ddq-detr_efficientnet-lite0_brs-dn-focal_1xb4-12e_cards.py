_base_ = './ddq-detr_efficientnet-lite0_brs_1xb4-12e_cards.py'

# Denoising queries keep the losses of the stock head; without this line they are ranked.
model = dict(
    bbox_head=dict(loss_dn_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0))
)
