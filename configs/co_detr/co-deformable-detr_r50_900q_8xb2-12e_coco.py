_base_ = './co-deformable-detr_r50_8xb2-12e_coco.py'

model = dict(num_queries=900, test_cfg=dict(max_per_img=300))
