"""Configs of openmixup's models around a LITv2 of the goldens' size."""
from ..conftest import GOLDEN_ARCH

CLASSES = 10
DIM = GOLDEN_ARCH['embed_dims'][-1]
HEAD = dict(type='ClsMixupHead', with_avg_pool=True, in_channels=DIM, num_classes=CLASSES,
            loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, num_classes=CLASSES,
                      mode='original', loss_weight=1.0))
CLS_HEAD = dict(type='ClsHead', loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
                with_avg_pool=True, in_channels=DIM, num_classes=CLASSES)
NECK = dict(type='NonLinearNeck', in_channels=DIM, hid_channels=16, out_channels=16, num_layers=2,
            with_bias=False, with_last_bn=False, with_avg_pool=True)


def backbone(**options) -> dict:
    return dict(type='LITv2', arch=GOLDEN_ARCH, alpha=0.9, window_size=[0, 0, 2, 1], **options)


def mixup(mode: str, backbone: dict, **options) -> dict:
    return dict(type='MixUpClassification', alpha=1.0, mix_mode=mode, backbone=backbone, head=HEAD,
                **options)


def automix(backbone: dict, **options) -> dict:
    """AutoMix on images over 64 pixels: masks of stage 2's size, 1/16."""
    block = dict(
        type='PixelMixBlock', in_channels=64, reduction=2, use_scale=True,
        unsampling_mode=['nearest'], lam_concat=True, lam_concat_v=False, lam_mul=False,
        lam_residual=False, lam_mul_k=-1, x_qk_concat=False, x_v_concat=False,
        mask_loss_mode='L1', mask_loss_margin=0.1)
    block.update(options.pop('mix_block', {}))
    return dict(
        type='AutoMixup', alpha=2.0, momentum=0.999, mask_layer=2, mask_loss=0.1, lam_margin=0.08,
        backbone=backbone, mix_block=block, head_one=HEAD, head_mix=HEAD,
        head_weights=dict(decent_weight=[], accent_weight=[], head_mix_q=1, head_one_q=1,
                          head_mix_k=1, head_one_k=1), **options)


def samix(backbone: dict) -> dict:
    """SAMix: the mixing block sees both images, and lambda as a factor."""
    return automix(backbone, mix_block=dict(
        unsampling_mode=['bilinear'], lam_concat=False, lam_concat_v=False, lam_mul=True,
        lam_residual=True, x_qk_concat=True, mask_loss_mode='L1+Variance',
        value_neck_cfg=dict(
            type='ConvNeck', in_channels=64, hid_channels=32, out_channels=1, act_cfg=dict(
                type='ELU'), num_layers=2, kernel_size=1, with_bias=True, with_last_dropout=0.1,
            with_residual=False)))


def adautomix(backbone: dict) -> dict:
    return dict(
        type='AdAutoMix', alpha=1.0, mix_samples=3, is_random=True, momentum=0.999,
        save_name='samples.png',
        backbone=backbone, mix_block=dict(
            type='AdaptiveMask', in_channel=64, reduction=2, lam_concat=True, use_scale=True,
            unsampling_mode='nearest', scale_factor=16), head_one=HEAD, head_mix=HEAD,
        head_weights=dict(decent_weight=[], accent_weight=[], head_mix_q=1, head_one_q=1,
                          head_mix_k=1, head_one_k=1))


def simsiam(backbone: dict) -> dict:
    return dict(type='SimSiam', backbone=backbone, neck=NECK, head=dict(
        type='LatentPredictHead', predictor=dict(
            type='NonLinearNeck', in_channels=16, hid_channels=8, out_channels=16, num_layers=2,
            with_avg_pool=False, with_last_bn=False, with_last_bias=True)))


def byol(backbone: dict) -> dict:
    return dict(simsiam(backbone), type='BYOL', base_momentum=0.99)


def moco(backbone: dict) -> dict:
    return dict(type='MOCO', backbone=backbone, neck=NECK, queue_len=32, feat_dim=16,
                momentum=0.999, head=dict(type='ContrastiveHead', temperature=0.2))


def mocov3(backbone: dict) -> dict:
    return dict(type='MoCoV3', backbone=backbone, neck=NECK, base_momentum=0.99, head=dict(
        type='MoCoV3Head', temperature=1.0, predictor=dict(
            type='NonLinearNeck', in_channels=16, hid_channels=16, out_channels=16, num_layers=2,
            with_bias=False, with_last_bn=False, with_avg_pool=False)))


def fixmatch(backbone: dict) -> dict:
    return dict(type='FixMatch', momentum=0.99, temperature=0.5, p_cutoff=0.0, weight_ul=1.0,
                hard_label=True, ratio_ul=1, ema_pseudo=1.0, backbone=backbone, head=CLS_HEAD)



def simclr(backbone: dict) -> dict:
    return dict(type='SimCLR', backbone=backbone, neck=NECK,
                head=dict(type='ContrastiveHead', temperature=0.1))


def barlowtwins(backbone: dict) -> dict:
    return dict(type='BarlowTwins', backbone=backbone, neck=NECK,
                head=dict(type='LatentCrossCorrelationHead', in_channels=16))


def densecl(backbone: dict) -> dict:
    return dict(moco(backbone), type='DenseCL', loss_lambda=0.5, neck=dict(
        type='DenseCLNeck', in_channels=DIM, hid_channels=16, out_channels=16, num_grid=None))


def moco_mix(backbone: dict) -> dict:
    return dict(moco(backbone), type='MoCoMix', mix_block='mixup', alpha=1.0)


def swav(backbone: dict) -> dict:
    return dict(type='SwAV', backbone=backbone, neck=dict(
        type='SwAVNeck', in_channels=DIM, hid_channels=16, out_channels=16, with_avg_pool=True),
        head=dict(type='SwAVHead', feat_dim=16, num_prototypes=8, epsilon=0.05, temperature=0.1,
                  num_crops=[2]))


def npid(backbone: dict) -> dict:
    return dict(type='NPID', backbone=backbone, neg_num=8, head=dict(
        type='ContrastiveHead', temperature=0.07), memory_bank=dict(
            type='SimpleMemory', length=32, feat_dim=16, momentum=0.5),
        neck=dict(type='LinearNeck', in_channels=DIM, out_channels=16, with_avg_pool=True))


def rotation(backbone: dict) -> dict:
    return dict(type='RotationPred', backbone=backbone, head=dict(CLS_HEAD, num_classes=4))


def relative_location(backbone: dict) -> dict:
    return dict(type='RelativeLoc', backbone=backbone, neck=dict(
        type='RelativeLocNeck', in_channels=DIM, out_channels=16, with_avg_pool=True), head=dict(
            CLS_HEAD, with_avg_pool=False, in_channels=16, num_classes=8))


def fine_tuning(backbone: dict) -> dict:
    return dict(type='FineTuning', backbone=backbone, head=CLS_HEAD)
