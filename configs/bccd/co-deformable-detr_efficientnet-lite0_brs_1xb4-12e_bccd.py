_base_ = ['./co-deformable-detr_efficientnet-lite0_focal_1xb4-12e_bccd.py', '../_base_/models/brs_detr.py']

model = _base_.brs_detr
