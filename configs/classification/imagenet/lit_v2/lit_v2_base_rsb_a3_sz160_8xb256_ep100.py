_base_ = './lit_v2_small_rsb_a3_sz160_8xb256_ep100.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.4), head=dict(in_channels=1024))
