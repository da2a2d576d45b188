_base_ = './lit_v2_small_rsb_a3_sz160_8xb256_ep100.py'

model = dict(backbone=dict(arch='medium', drop_path_rate=0.3))
