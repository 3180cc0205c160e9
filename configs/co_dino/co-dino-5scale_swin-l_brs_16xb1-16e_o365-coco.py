_base_ = ['./co-dino-5scale_swin-l_16xb1-16e_o365-coco.py', '../_base_/models/brs_co_dino.py']

model = _base_.brs_co_dino_published
