_base_ = ['./co-dino-5scale_r50_8xb2-12e_coco.py', '../_base_/models/brs_co_dino.py']

model = _base_.brs_co_dino_published
