_base_ = './lit_v2_small.py'

model = dict(backbone=dict(arch='medium', drop_path_rate=0.3))
