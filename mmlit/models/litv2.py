"""LITv2: four stages, convolutional blocks early and HiLo attention late."""
import itertools
import math
from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mmlit.checkpoints import check_settings, load_checkpoint, resolve_pretrained
from mmlit.errors import ArgumentError
from mmlit.ops import keep_form, pad_to_multiple

from .attention import HiLoAttention
from .ffn import ConvFFN
from .fusing import check_plain, fuse_batch_norm, fuse_layer_scale, fuse_projections
from .layers import MAP_NORMS, TOKEN_NORMS, DropPath, build_norm
from .merging import DeformableTokenMerging
from .tracing import OneStep, one_node, trace

NUM_STAGES = 4
ARCH_KEYS = ('embed_dims', 'depths', 'num_heads', 'mlp_ratio')


def _arch(embed_dims, depths, num_heads, mlp_ratio=(4, 4, 4, 4)) -> dict:
    return dict(zip(ARCH_KEYS, map(list, (embed_dims, depths, num_heads, mlp_ratio)), strict=True))


class LITv2(BaseModule):
    """LITv2 backbone (Pan et al., "Fast Vision Transformers with HiLo Attention",
    arXiv 2205.13213, section 4), equal to the official release.

    Every output is the layer-normed map of its stage; the next stage reads the map before that
    norm. Tokens travel as (B, H, W, C).

    What comes out of ``norm{i}``, ``stages[i]`` and ``stages[i].blocks`` is (B, C, H, W), so that
    hooks on them (Grad-CAM, feature extractors) see maps. Single blocks, ``patch_embed`` and
    ``downsample`` give tokens: such tools take ``lambda t: t.permute(0, 3, 1, 2)`` there.

    Args:
        arch (str | dict): 'tiny', 'small', 'medium', 'base' (or their first letter), or a dict
            with a list per stage of ``embed_dims``, ``depths``, ``num_heads`` and ``mlp_ratio``.
            Defaults to 'small'.
        in_channels (int): Channels of the image. Defaults to 3.
        stem_patch_size (int): Side of an image patch, in pixels. Defaults to 4.
        out_indices (Sequence[int] | int): Stages whose maps are returned, in ascending order.
            Defaults to (3, ).
        drop_rate (float): Dropout after the patch embedding, after the projections of attention
            and in the feed-forward networks. Defaults to 0.
        attn_drop_rate (float): Dropout of attention weights. Defaults to 0.
        drop_path_rate (float): Stochastic depth rate of the last block; it rises linearly from 0
            at the first. Defaults to 0.
        qkv_bias (bool): Whether queries, keys and values have a bias. Defaults to True.
        window_size (Sequence[int] | int): HiLo window of each stage, in tokens; 0 (or 1) in
            stages without HiLo. An int is the window of every HiLo stage. Defaults to
            (0, 0, 2, 1).
        alpha (float): Share of Lo-Fi heads, in [0, 1]. Defaults to 0.9.
        init_values (float): Initial value of layer scale; 0 is no layer scale. Defaults to 0.
        norm_cfg (dict): Norm of tokens and outputs. Defaults to ``dict(type='LN', eps=1e-5)``.
        act_cfg (dict): Activation. Defaults to ``dict(type='GELU')``.
        conv_norm_cfg (dict): Norm of the token merging. Defaults to
            ``dict(type='BN', eps=1e-5)``.
        attention_types (Sequence[str | None] | str): Attention of each stage: None (a block is a
            feed-forward network only), 'HiLo', or 'MHSA' (global attention: HiLo with window 1).
            A string is the type of every stage. Defaults to (None, None, 'HiLo', 'HiLo').
        frozen_stages (int): Freezes the patch embedding (0) and the first n stages with their
            token merging and output norm (n). -1 freezes nothing. Defaults to -1.
        norm_eval (bool): Keeps batch norms in eval mode while training. Defaults to False.
        norm_indices (Sequence[int], optional): Stages whose output carries a norm; the official
            detection release has none on its first output: (1, 2, 3). Defaults to None, which
            means all of ``out_indices``.
        with_cp (bool): Recomputes blocks in the backward pass to save memory. Defaults to False.
        init_cfg (dict, optional): ``dict(type='Pretrained', checkpoint=...)`` loads a checkpoint
            of the official release, of openmixup or of mmlit, whichever it is: a path, a URL, or a
            name of :func:`mmlit.list_pretrained`, such as 'in1k', whose alpha and layer scale the
            model has to have. Of several backbones in a file, ``prefix='teacher.backbone.'`` says
            which. Other configs of mmengine apply on top of the default initialisation. Defaults
            to None.

    Raises:
        ArgumentError: If an argument has no meaning here; the message names it.
    """

    arch_zoo = {
        **dict.fromkeys(['t', 'tiny'], _arch([64, 128, 320, 512], [3, 4, 6, 3], [1, 2, 5, 8],
                                             [8, 8, 4, 4])),
        **dict.fromkeys(['s', 'small'], _arch([96, 192, 384, 768], [2, 2, 6, 2], [3, 6, 12, 24])),
        **dict.fromkeys(['m', 'medium'], _arch([96, 192, 384, 768], [2, 2, 18, 2],
                                               [3, 6, 12, 24])),
        **dict.fromkeys(['b', 'base'], _arch([128, 256, 512, 1024], [2, 2, 18, 2],
                                             [4, 8, 16, 32])),
    }

    def __init__(self,
                 arch: str | dict[str, Sequence[int]] = 'small',
                 in_channels: int = 3,
                 stem_patch_size: int = 4,
                 out_indices: Sequence[int] | int = (3, ),
                 drop_rate: float = 0.,
                 drop_path_rate: float = 0.,
                 qkv_bias: bool = True,
                 window_size: Sequence[int] | int = (0, 0, 2, 1),
                 alpha: float = 0.9,
                 init_values: float = 0.,
                 norm_cfg: dict = dict(type='LN', eps=1e-5),
                 act_cfg: dict = dict(type='GELU'),
                 conv_norm_cfg: dict = dict(type='BN', eps=1e-5),
                 attention_types: Sequence[str | None] | str = (None, None, 'HiLo', 'HiLo'),
                 frozen_stages: int = -1,
                 norm_eval: bool = False,
                 init_cfg: dict | list[dict] | None = None,
                 attn_drop_rate: float = 0.,
                 norm_indices: Sequence[int] | None = None,
                 with_cp: bool = False) -> None:
        super().__init__(init_cfg)
        arch = self._parse_arch(arch)
        self.arch_name = next((name for name in ('tiny', 'small', 'medium', 'base')
                               if self.arch_zoo[name] == arch), None)
        self.embed_dims = arch['embed_dims']
        self.depths = arch['depths']
        self.num_heads = arch['num_heads']
        self.mlp_ratio = arch['mlp_ratio']
        self.in_channels = in_channels
        self.out_indices = self._parse_indices(out_indices, 'out_indices')
        self.norm_indices = (
            self.out_indices if norm_indices is None else
            self._parse_indices(norm_indices, 'norm_indices', self.out_indices))
        windows = self._parse_attention(attention_types, window_size)
        for name, rate in [('drop_rate', drop_rate), ('attn_drop_rate', attn_drop_rate),
                           ('drop_path_rate', drop_path_rate)]:
            if not 0 <= rate < 1:
                raise ArgumentError(f'{name}={rate!r}: a rate lies in [0, 1)')
        if not 0 <= alpha <= 1:
            raise ArgumentError(f'alpha={alpha!r}: the share of Lo-Fi heads lies in [0, 1]')
        if init_values < 0:
            raise ArgumentError(f'init_values={init_values!r}: expected 0 (no layer scale) or more')
        if frozen_stages not in range(-1, NUM_STAGES + 1):
            raise ArgumentError(
                f'frozen_stages={frozen_stages!r}: expected -1 to {NUM_STAGES}')
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

        self.patch_embed = PatchEmbed(in_channels, self.embed_dims[0], stem_patch_size, norm_cfg)
        self.min_size = self.patch_embed.min_size
        self.drop_after_pos = nn.Dropout(drop_rate)
        last = max(sum(self.depths) - 1, 1)
        drop_path = (drop_path_rate * i / last for i in itertools.count())
        self.stages = nn.ModuleList()
        for i, (dim, depth) in enumerate(zip(self.embed_dims, self.depths, strict=True)):
            blocks = [
                Block(
                    dim,
                    attention=windows[i] and dict(
                        num_heads=self.num_heads[i],
                        window_size=windows[i],
                        alpha=alpha,
                        qkv_bias=qkv_bias,
                        attn_drop_rate=attn_drop_rate,
                        proj_drop_rate=drop_rate),
                    hidden_dims=int(dim * self.mlp_ratio[i]),
                    drop_rate=drop_rate,
                    drop_path_rate=next(drop_path),
                    init_values=init_values,
                    norm_cfg=norm_cfg,
                    act_cfg=act_cfg,
                    with_cp=with_cp) for _ in range(depth)
            ]
            downsample = None
            if i + 1 < NUM_STAGES:
                downsample = DeformableTokenMerging(dim, self.embed_dims[i + 1], conv_norm_cfg,
                                                    act_cfg)
            self.stages.append(Stage(blocks, downsample))
        for i in self.norm_indices:
            self.add_module(f'norm{i}', build_norm(norm_cfg, self.embed_dims[i], MAP_NORMS,
                                                   'norm_cfg'))
        self.is_fused = False
        # What weights of these shapes mean: files of trainings hold it, and loading compares it.
        self.checkpoint_settings = dict(
            num_heads=self.num_heads, window_size=windows, alpha=float(alpha),
            norm_cfg=dict(norm_cfg), act_cfg=dict(act_cfg),
            conv_norm_eps=conv_norm_cfg.get('eps', 1e-5))
        self._reset_parameters()
        self._freeze_stages()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images (B, in_channels, H, W) to one (B, C_i, H_i, W_i) for each of ``out_indices``.

        H and W are at least 32 pixels each, of any ratio; with the default stem the stages have
        strides 4, 8, 16 and 32.

        Raises:
            ArgumentError: If the input is not 4-dimensional, has another number of channels, or is
                too small.
        """
        return tuple(self._output(i, stage_map) for i, stage_map in
                     zip(self.out_indices, self.stage_maps(x, self.out_indices), strict=True))

    def stage_maps(self, x: Tensor, indices: Sequence[int]) -> list[Tensor]:
        """Map images to the maps of stages before any norm.

        Args:
            x: Images (B, in_channels, H, W).
            indices: Stages, in ascending order; those after the last are not run.

        Returns:
            For each of ``indices``, a view (B, C_i, H_i, W_i) of the stage's tokens.

        Raises:
            ArgumentError: As :meth:`forward`.
        """
        x = self.drop_after_pos(self.patch_embed(x))
        maps = []
        for i, stage in enumerate(self.stages):
            stage_map = stage(x)
            if i in indices:
                maps.append(stage_map)
            if i == indices[-1]:
                break
            x = stage.downsample(stage_map.permute(0, 2, 3, 1))
        return maps

    def _output(self, i: int, stage_map: Tensor) -> Tensor:
        if i in self.norm_indices:
            return getattr(self, f'norm{i}')(stage_map)
        # A copy, not a view, as the norms make one.
        return stage_map.contiguous()

    def __prepare_scriptable__(self) -> torch.jit.ScriptModule:
        return trace(self, self.patch_embed.example())

    def train(self, mode: bool = True) -> 'LITv2':
        """Set training mode, keeping frozen stages (and batch norms, if asked) in eval mode.

        Raises:
            ArgumentError: If the model is fused, and ``mode`` is True.
        """
        if mode and self.is_fused:
            raise ArgumentError('a fused LITv2 is for inference, and cannot be trained any more')
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for m in self.modules():
                if isinstance(m, _BatchNorm):
                    m.eval()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """How deep a parameter is, for layer-wise learning rates; as mmpretrain's Swin counts.

        Args:
            param_name: Name of the parameter in the whole model.
            prefix: What stands before the backbone's names there, such as 'backbone.'.

        Returns:
            Depth and the number of layers n: 0 for the patch embedding, 1 to n - 2 for the blocks,
            each token merging with the block before it, and n - 1 for output norms and whatever
            is outside of the backbone.
        """
        num_layers = sum(self.depths) + 2
        parts = param_name.removeprefix(prefix).split('.')
        if not param_name.startswith(prefix) or parts[0] not in ('patch_embed', 'stages'):
            return num_layers - 1, num_layers
        if parts[0] == 'patch_embed':
            return 0, num_layers
        stage = int(parts[1])
        blocks_before = sum(self.depths[:stage])
        if parts[2] == 'downsample':
            return blocks_before + self.depths[stage], num_layers
        return blocks_before + int(parts[3]) + 1, num_layers

    def fuse(self) -> 'LITv2':
        """Fold weights together for inference, in place; outputs stay equal up to rounding.

        Batch norms go into the convolutions of token merging, layer scale into the linears before
        it, and attention's projections of the same tokens become one. Load weights first: a fused
        model's ``state_dict`` has other names, and fits only a model fused alike. Fusing again
        changes nothing.

        Raises:
            ArgumentError: If the model is in training mode, if a batch norm depends on the batch,
                or if calling a layer means more than its weights (hooks, adapters).
        """
        if self.training:
            raise ArgumentError('fuse() is for inference: call eval() first')
        if self.is_fused:
            return self
        check_plain(self)
        for stage in self.stages[:-1]:  # first, for it may refuse
            fuse_batch_norm(stage.downsample)
        for block in (block for stage in self.stages for block in stage.blocks):
            fuse_layer_scale(block)
            if block.attn is not None:
                fuse_projections(block.attn)
        self.requires_grad_(False)
        self.is_fused = True
        return self

    def switch_to_deploy(self) -> None:
        """:meth:`fuse`, by the name that OpenMMLab's tools call."""
        self.fuse()

    def init_weights(self, pretrained: str | None = None) -> None:
        """Initialise anew, or load the checkpoint that ``init_cfg`` names.

        Args:
            pretrained: Path or URL of a checkpoint, or the name of a published one, in place of
                ``init_cfg``'s; openmixup's models pass their ``pretrained`` here.
        """
        prefix = None
        if not pretrained:
            pretrained, prefix = self._pretrained_checkpoint()
        if pretrained is not None:
            source, entry = resolve_pretrained(self.arch_name, pretrained)
            if entry:
                check_settings(self, entry)
            load_checkpoint(self, source, prefix=prefix)
        else:
            self._reset_parameters()
            if self.init_cfg:
                super().init_weights()
        self._is_init = True

    def _pretrained_checkpoint(self) -> tuple[str | None, str | None]:
        """Source and prefix that ``init_cfg`` names."""
        configs = self.init_cfg if isinstance(self.init_cfg, (list, tuple)) else [self.init_cfg]
        for config in configs:
            if config and config['type'] == 'Pretrained':
                extra = set(config) - {'type', 'checkpoint', 'prefix', 'map_location'}
                if extra or len(configs) > 1:
                    raise ArgumentError(f'init_cfg={self.init_cfg}: Pretrained fills every weight '
                                        'and takes a checkpoint and its prefix alone')
                # In files of backbones alone, nothing stands before the names.
                prefix = config.get('prefix') or ''
                return config['checkpoint'], None if prefix.rstrip('.') == 'backbone' else prefix
        return None, None

    def _reset_parameters(self) -> None:
        """Initialisation of the recipes: truncated normal linears, fan-out convolutions."""
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.trunc_normal_(m.weight, std=0.02)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
            elif isinstance(m, nn.Conv2d):
                fan_out = m.weight.shape[0] * m.weight[0, 0].numel() // m.groups
                nn.init.normal_(m.weight, std=math.sqrt(2 / fan_out))
                nn.init.zeros_(m.bias)
            elif isinstance(m, Block):
                m.reset_layer_scale()
            elif isinstance(m, (nn.LayerNorm, _BatchNorm)):
                m.reset_parameters()
        # After the loop above, which takes the offsets' convolution for an ordinary one.
        for stage in self.stages:
            if stage.downsample is not None:
                stage.downsample.dconv.reset_parameters()

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen = [self.patch_embed, self.drop_after_pos]
        for i in range(self.frozen_stages):
            frozen.append(self.stages[i])
            if i in self.norm_indices:
                frozen.append(getattr(self, f'norm{i}'))
        for m in frozen:
            m.eval()
            m.requires_grad_(False)

    def _parse_arch(self, arch: str | dict) -> dict:
        if isinstance(arch, str):
            if arch.lower() not in self.arch_zoo:
                raise ArgumentError(
                    f'arch={arch!r}: expected one of {list(self.arch_zoo)} or a dict')
            arch = self.arch_zoo[arch.lower()]
        elif not isinstance(arch, dict) or set(arch) != set(ARCH_KEYS):
            raise ArgumentError(f'arch={arch!r}: a custom arch is a dict with the keys '
                                f'{list(ARCH_KEYS)}, and no others')
        if any(len(v) != NUM_STAGES for v in arch.values()):
            raise ArgumentError(f'arch={arch!r}: every list needs {NUM_STAGES} entries')
        return {k: list(v) for k, v in arch.items()}

    def _parse_indices(self, indices: Sequence[int] | int, name: str,
                       allowed: Sequence[int] | None = None) -> tuple[int, ...]:
        indices = (indices, ) if isinstance(indices, int) else tuple(indices)
        allowed = range(NUM_STAGES) if allowed is None else allowed
        if len(set(indices)) != len(indices) or not set(indices) <= set(allowed):
            raise ArgumentError(f'{name}={indices}: expected different stages out of '
                                f'{list(allowed)}')
        if name == 'out_indices' and not indices:
            raise ArgumentError('out_indices is empty: name at least one stage')
        return tuple(sorted(indices))

    def _parse_attention(self, types, windows) -> list[int]:
        """Window of each stage: 0 without attention, 1 with ordinary attention."""
        if types is None or isinstance(types, str):
            types = [types] * NUM_STAGES
        if isinstance(windows, int):
            windows = [windows if t == 'HiLo' else 0 for t in types]
        for name, value in [('attention_types', types), ('window_size', windows)]:
            if len(value) != NUM_STAGES:
                raise ArgumentError(f'{name}={value!r}: expected {NUM_STAGES} entries, one per '
                                    'stage')
        parsed = []
        for i, (kind, window) in enumerate(zip(types, windows, strict=True)):
            if kind not in (None, 'HiLo', 'MHSA'):
                raise ArgumentError(
                    f"attention_types[{i}]={kind!r}: expected None, 'HiLo' or 'MHSA'")
            if kind == 'HiLo':
                if not isinstance(window, int) or window < 1:
                    raise ArgumentError(f'window_size[{i}]={window!r}: HiLo needs an integer >= 1')
            elif window not in (None, 0, 1):
                raise ArgumentError(f'window_size[{i}]={window!r}, but stage {i} has attention '
                                    f'{kind!r}, which has no windows: use 0')
            parsed.append({'HiLo': window, 'MHSA': 1, None: 0}[kind])
        return parsed


class PatchEmbed(OneStep):
    """Cuts the image into patches and projects each to a token, with layer norm."""

    def __init__(self, in_channels: int, embed_dims: int, patch_size: int, norm_cfg: dict):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, embed_dims, patch_size, stride=patch_size)
        self.norm = build_norm(norm_cfg, embed_dims, TOKEN_NORMS, 'norm_cfg')
        self.in_channels = in_channels
        # The smallest side that leaves one token in the last stage.
        self.min_size = patch_size * 2**(NUM_STAGES - 1)

    def example(self) -> Tensor:
        return self.norm.weight.new_zeros(1, self.in_channels, 2 * self.min_size,
                                          3 * self.min_size)

    @one_node
    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, ceil(H / p), ceil(W / p), C), zero-padded right and bottom.

        Raises:
            ArgumentError: See :meth:`LITv2.forward`.
        """
        self._check(x)
        x = pad_to_multiple(x.permute(0, 2, 3, 1), self.patch_size)
        # Turning the image costs less than turning the tokens, which are twice as many numbers.
        x = self.proj(x.contiguous().permute(0, 3, 1, 2))
        return self.norm(x.permute(0, 2, 3, 1).contiguous())

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4:
            raise ArgumentError(f'expected images (B, C, H, W), got shape {tuple(x.shape)}')
        if x.shape[1] != self.in_channels:
            raise ArgumentError(f'images have {x.shape[1]} channels, but LITv2 was built with '
                                f'in_channels={self.in_channels}')
        if min(x.shape[2:]) < self.min_size:
            raise ArgumentError(f'images of {x.shape[2]}x{x.shape[3]} pixels are too small: each '
                                f'side must be at least {self.min_size}')


class Stage(nn.Module):
    """Blocks of one resolution, and the merging to the next (None in the last stage).

    Calling it runs the blocks. The merging is called on its own, by the backbone: outputs are
    taken before it.
    """

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None):
        super().__init__()
        self.blocks = Blocks(*blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, H, W, C) to a map (B, C, H, W), which is a view of tokens."""
        return self.blocks(x)


class Blocks(nn.Sequential):
    """The blocks of a stage.

    What they give is a map here already, for extractors that trace with torch.fx take the last
    step of a module by its name, which in ``stages.0`` is that of ``stages.0.downsample``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, H, W, C) to a map (B, C, H, W), which is a view of tokens."""
        return super().forward(x).permute(0, 3, 1, 2)


class Block(OneStep):
    """A residual feed-forward network, after residual attention where the stage has it.

    Args:
        embed_dims: Channels C.
        attention: Arguments of :class:`HiLoAttention`; none without attention.
        hidden_dims: Channels inside the feed-forward network.
        drop_rate: Dropout in the feed-forward network.
        drop_path_rate: Stochastic depth rate.
        init_values: Initial layer scale; 0 is none.
        norm_cfg: Norm config.
        act_cfg: Activation config.
        with_cp: Whether to recompute the block in the backward pass.
    """

    def __init__(self, embed_dims: int, attention: dict | None, hidden_dims: int, drop_rate: float,
                 drop_path_rate: float, init_values: float, norm_cfg: dict, act_cfg: dict,
                 with_cp: bool):
        super().__init__()
        self.attn = self.gamma1 = self.gamma2 = None
        self.init_values = init_values
        self.with_cp = with_cp
        if attention:
            self.norm1 = build_norm(norm_cfg, embed_dims, TOKEN_NORMS, 'norm_cfg')
            self.attn = HiLoAttention(embed_dims, **attention)
        self.norm2 = build_norm(norm_cfg, embed_dims, TOKEN_NORMS, 'norm_cfg')
        self.ffn = ConvFFN(embed_dims, hidden_dims, act_cfg, drop_rate)
        self.drop_path = DropPath(drop_path_rate)
        if init_values:
            if attention:
                self.gamma1 = nn.Parameter(torch.full((embed_dims, ), float(init_values)))
            self.gamma2 = nn.Parameter(torch.full((embed_dims, ), float(init_values)))

    def example(self) -> Tensor:
        weight = self.norm2.weight
        return weight.new_zeros(1, 6, 10, weight.shape[0])

    @one_node
    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        # Weights of an un-frozen block need gradients whether or not its input does.
        if self.with_cp and self.training and torch.is_grad_enabled():
            return checkpoint(keep_form(self._forward), x, use_reentrant=False)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        if self.attn is not None:
            x = x + self.drop_path(_scale(self.attn(self.norm1(x)), self.gamma1))
        return x + self.drop_path(_scale(self.ffn(self.norm2(x)), self.gamma2))

    def reset_layer_scale(self) -> None:
        for gamma in (self.gamma1, self.gamma2):
            if gamma is not None:
                nn.init.constant_(gamma, self.init_values)


def _scale(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else gamma * x
