_base_ = ['./co-dino_efficientnet-lite0_qfl_1xb4-12e_shapes.py', '../_base_/models/brs_co_dino.py']

model = _base_.brs_co_dino
