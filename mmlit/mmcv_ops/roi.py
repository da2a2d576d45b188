"""RoIAlign, deformable RoI pooling and RoIPool: the maps of boxes, all of one size.

RoIAlign with averages reads a map at points of a regular grid, bilinearly. The weights of rows and
of columns are independent, and neighbouring points share pixels, so each output pixel is one
weighted sum of few rows of a channels-last map: ``embedding_bag``, called once for all boxes whose
grids are of one size.
"""
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .gradients import gradients
from .torchvision_ops import torchvision_operator, wide_dtype

__all__ = ['deform_roi_pool_backward', 'deform_roi_pool_forward', 'roi_align_backward',
           'roi_align_forward', 'roi_pool_backward', 'roi_pool_forward']

ENTRIES = 2**22  # how many weights are made at once
ROIS = 16  # how many boxes RoIPool takes at once


def roi_align_forward(input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor,
                      argmax_x: Tensor, aligned_height: int, aligned_width: int,
                      spatial_scale: float, sampling_ratio: int, pool_mode: int,
                      aligned: bool) -> None:
    """Fill ``output`` with the maps of boxes (He et al., Mask R-CNN, arXiv 1703.06870, section 3).

    Args:
        input: Map, shape (B, C, H, W).
        rois: Image and corners (b, x1, y1, x2, y2), shape (N, 5).
        output: Shape (N, C, aligned_height, aligned_width).
        argmax_y: With pool_mode 0, filled with the row of each maximum, -1 for none; shape of
            ``output``.
        argmax_x: The same for columns.
        aligned_height: Height of the outputs.
        aligned_width: Width of the outputs.
        spatial_scale: From the coordinates of boxes to those of the map.
        sampling_ratio: Points per output pixel and axis; 0 for one per pixel of the map.
        pool_mode: 0 for the maximum over the points, 1 for their average.
        aligned: Whether the centre of the first pixel is at 0.5 rather than 0.
    """
    size = aligned_height, aligned_width
    compiled = torchvision_operator('roi_align', input)
    if compiled is not None and pool_mode == 1:
        wide = wide_dtype(input)
        output.copy_(compiled(input.to(wide), rois.to(wide), spatial_scale, *size, sampling_ratio,
                              aligned))
        return
    rows = _rows(input)
    boxes = _Boxes(rois, input.shape[2:], size, spatial_scale, sampling_ratio, aligned)
    if pool_mode == 1:
        for chosen, index, weights in boxes.averages():
            out = F.embedding_bag(index, rows, per_sample_weights=weights, mode='sum')
            output[chosen] = out.view(-1, *size, rows.shape[1]).permute(0, 3, 1, 2).to(output.dtype)
        return
    output.fill_(-10000)  # mmcv's maximum over no points, of a box without area
    argmax_y.fill_(-1)
    argmax_x.fill_(-1)
    for chosen, y, x, index, weights in boxes.points():
        points = F.embedding_bag(index.view(-1, 4), rows, per_sample_weights=weights.view(-1, 4),
                                 mode='sum')
        best, which = points.view(*y.shape, -1).max(dim=-2)
        output[chosen] = best.permute(0, 3, 1, 2).to(output.dtype)
        for buffer, positions in ((argmax_y, y), (argmax_x, x)):
            found = positions.unsqueeze(-1).expand(*y.shape, rows.shape[1]).gather(
                -2, which.unsqueeze(-2)).squeeze(-2)
            buffer[chosen] = found.permute(0, 3, 1, 2).to(buffer.dtype)


def roi_align_backward(grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor,
                       grad_input: Tensor, aligned_height: int, aligned_width: int,
                       spatial_scale: float, sampling_ratio: int, pool_mode: int,
                       aligned: bool) -> None:
    """Add the gradient of the map to ``grad_input``; arguments as in the forward pass."""
    size = aligned_height, aligned_width
    if pool_mode == 0:
        _scatter_maxima(grad_input, grad_output, rois, argmax_y, argmax_x)
        return
    compiled = torchvision_operator('_roi_align_backward', grad_input)
    if compiled is not None:
        wide = wide_dtype(grad_output)
        grad_input.add_(compiled(grad_output.to(wide), rois.to(wide), spatial_scale, *size,
                                 *grad_input.shape, sampling_ratio, aligned))
        return
    rows = _rows(grad_output)
    boxes = _Boxes(rois, grad_input.shape[2:], size, spatial_scale, sampling_ratio, aligned)
    parts, entries = [], 0
    for chosen, index, weights in boxes.averages():
        bins = torch.arange(size[0] * size[1], device=rois.device)
        readers = (chosen.unsqueeze(1) * len(bins) + bins).view(-1, 1).expand_as(index)
        parts.append([t.flatten() for t in (index, readers, weights)])
        entries += index.numel()
        if entries > ENTRIES:
            _scatter_rows(grad_input, rows, *map(torch.cat, zip(*parts, strict=True)))
            parts, entries = [], 0
    if parts:
        _scatter_rows(grad_input, rows, *map(torch.cat, zip(*parts, strict=True)))


class _Boxes:
    """Where boxes read a map.

    Args:
        rois: Shape (N, 5).
        shape: Height and width of the map.
        size: Height and width of the outputs.
        scale: From the coordinates of boxes to those of the map.
        sampling_ratio: Points per output pixel and axis, or 0.
        aligned: As in :func:`roi_align_forward`.
    """

    def __init__(self, rois: Tensor, shape: tuple[int, int], size: tuple[int, int], scale: float,
                 sampling_ratio: int, aligned: bool):
        rois = rois.to(wide_dtype(rois))
        self.shape, self.size = tuple(shape), size
        self.image = rois[:, 0].long()
        corners = rois[:, 1:] * scale - (0.5 if aligned else 0.)
        sides = corners[:, 2:] - corners[:, :2]
        if not aligned:
            sides = sides.clamp(min=1.)
        self.start = corners[:, [1, 0]]  # y, x
        self.bin = sides[:, [1, 0]] / torch.tensor(size, dtype=rois.dtype, device=rois.device)
        self.merges = sampling_ratio <= 0
        if self.merges:
            self.grid = self.bin.ceil().long().clamp(min=0)
        else:
            self.grid = torch.full_like(self.bin, sampling_ratio, dtype=torch.long)

    def averages(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Boxes in groups: which ones, and of each of their output pixels the indices of rows of
        the map and their weights, each (boxes * height * width, L)."""
        for chosen, (gh, gw) in self._groups():
            iy, wy = self._axis(chosen, 0, gh)
            ix, wx = self._axis(chosen, 1, gw)
            index = (iy[:, :, None, :, None] * self.shape[1] + ix[:, None, :, None, :]
                     + self._first_row(chosen).view(-1, 1, 1, 1, 1))
            weights = wy[:, :, None, :, None] * wx[:, None, :, None, :]
            yield chosen, index.flatten(0, 2).flatten(1), weights.flatten(0, 2).flatten(1)

    def points(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
        """Boxes in groups: which ones, the positions y and x of the points of each output pixel,
        (boxes, height, width, points), and the indices and weights of their four neighbours."""
        for chosen, (gh, gw) in self._groups():
            (y, y0, y1, fy, in_y), (x, x0, x1, fx, in_x) = (
                self._positions(chosen, axis, grid) for axis, grid in enumerate((gh, gw)))
            rows = torch.stack([y0, y0, y1, y1], dim=-1)[:, :, None, :, None]
            cols = torch.stack([x0, x1, x0, x1], dim=-1)[:, None, :, None, :]
            wy = torch.stack([1 - fy, 1 - fy, fy, fy], dim=-1) * in_y.unsqueeze(-1)
            wx = torch.stack([1 - fx, fx, 1 - fx, fx], dim=-1) * in_x.unsqueeze(-1)
            index = rows * self.shape[1] + cols + self._first_row(chosen).view(-1, *[1] * 5)
            weights = wy[:, :, None, :, None] * wx[:, None, :, None, :]
            inside = in_y[:, :, None, :, None] & in_x[:, None, :, None, :]
            y, x = (torch.where(inside, t, -1.) for t in (
                y[:, :, None, :, None], x[:, None, :, None, :]))
            yield (chosen, y.flatten(3), x.flatten(3), index.flatten(3, 4), weights.flatten(3, 4))

    def shifted_averages(self, shift: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """As :meth:`averages`, with each bin shifted by (x, y) in pixels of the map, shape (N, 2,
        height, width); differentiable in the shift."""
        for chosen, (gh, gw) in self._groups():
            (iy, wy), (ix, wx) = (
                self._pair(self._positions(chosen, axis, grid, shift[chosen, 1 - axis, ..., None]))
                for axis, grid in enumerate((gh, gw)))
            index = (iy.unsqueeze(-1) * self.shape[1] + ix.unsqueeze(-2)
                     + self._first_row(chosen).view(-1, *[1] * 4))
            weights = wy.unsqueeze(-1) * wx.unsqueeze(-2) / (gh * gw)
            yield chosen, index.flatten(0, 2).flatten(1), weights.flatten(0, 2).flatten(1)

    def _groups(self) -> Iterator[tuple[Tensor, tuple[int, int]]]:
        """Indices of boxes whose grids are of one size, and that size; those without points are
        left out, for their outputs stay zero."""
        width = int(self.grid.max()) + 1 if len(self.grid) else 1
        keys = self.grid[:, 0] * width + self.grid[:, 1]
        for key in keys.unique().tolist():
            gh, gw = divmod(key, width)
            if gh == 0 or gw == 0:
                continue
            chosen = (keys == key).nonzero().squeeze(1)
            entries = self.size[0] * self.size[1] * 4 * gh * gw
            for part in chosen.split(max(ENTRIES // entries, 1)):
                yield part, (gh, gw)

    def _first_row(self, chosen: Tensor) -> Tensor:
        return self.image[chosen] * (self.shape[0] * self.shape[1])

    def _positions(self, chosen: Tensor, axis: int, grid: int,
                   shift: Tensor | float = 0.) -> tuple[Tensor, ...]:
        """Positions (boxes, bins, grid) along an axis, the two pixels beside each, how far it is
        from the first, and whether it is inside the map, or less than a pixel outside.

        A ``shift`` of the bins (boxes, height, width, 1) makes them (boxes, height, width, grid).
        """
        n, bins = self.shape[axis], self.size[axis]
        start, side = self.start[chosen, axis].view(-1, 1, 1), self.bin[chosen, axis].view(-1, 1, 1)
        steps = torch.arange(max(bins, grid), device=start.device, dtype=start.dtype)
        at = start + steps[:bins].view(1, -1, 1) * side + (steps[:grid] + 0.5) * side / grid
        if isinstance(shift, Tensor):
            at = at.unsqueeze(2 - axis) + shift
        inside = (at >= -1) & (at <= n)
        at = at.clamp(0, n - 1)
        low = at.long()
        return at, low, (low + 1).clamp(max=n - 1), at - low, inside

    def _axis(self, chosen: Tensor, axis: int, grid: int) -> tuple[Tensor, Tensor]:
        """Indices and weights (boxes, bins, L) along an axis, averaged over the points of a bin."""
        index, weights = self._pair(self._positions(chosen, axis, grid))
        if not self.merges:
            return index, weights / grid
        # Points lie at most one pixel apart: they touch grid + 1 pixels, each several times.
        first = index[..., :1]
        merged = weights.new_zeros(*index.shape[:2], grid + 1)
        merged.scatter_add_(-1, index - first, weights / grid)
        index = first + torch.arange(grid + 1, device=index.device)
        return index.clamp(max=self.shape[axis] - 1), merged

    @staticmethod
    def _pair(positions: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Indices of the pixels beside positions (..., grid), and their weights: (..., 2 * grid)"""
        _, low, high, part, inside = positions
        return (torch.cat([low, high], dim=-1),
                torch.cat([(1 - part) * inside, part * inside], dim=-1))


def _rows(x: Tensor) -> Tensor:
    """Pixels of a map (B, C, H, W) as rows (B * H * W, C)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).to(wide_dtype(x))


def _scatter_rows(grad_input: Tensor, rows: Tensor, pixels: Tensor, readers: Tensor,
                  weights: Tensor) -> None:
    """Add ``weights`` times ``rows[readers]`` to pixels (b * H * W + y * W + x) of a gradient.

    Sorted by pixel, this is reading with the roles exchanged; pixels that nobody has read, mostly
    all of a large map, are not touched.
    """
    B, C, H, W = grad_input.shape
    pixels, order = pixels.sort()
    touched, counts = pixels.unique_consecutive(return_counts=True)
    sums = F.embedding_bag(readers[order], rows, counts.cumsum(0) - counts,
                           per_sample_weights=weights[order], mode='sum').to(grad_input.dtype)
    images = torch.bincount(touched // (H * W), minlength=B).tolist()
    for image, index, part in zip(grad_input.view(B, C, H * W), touched.split(images),
                                  sums.split(images), strict=True):
        image.scatter_add_(1, (index % (H * W)).expand(C, -1), part.t())


def _scatter_maxima(grad_input: Tensor, grad: Tensor, rois: Tensor, argmax_y: Tensor,
                    argmax_x: Tensor) -> None:
    """Add the gradients of maxima (N, C, h, w) to the four neighbours of where they were found."""
    _, C, H, W = grad_input.shape
    wide = wide_dtype(grad_input)
    y, x = argmax_y.to(wide), argmax_x.to(wide)
    found = (y >= 0) & (x >= 0)
    y, x = y.clamp(min=0), x.clamp(min=0)
    y0, x0 = y.long(), x.long()
    fy, fx = y - y0, x - x0
    image = rois[:, 0].long().view(-1, 1, 1, 1)
    channel = torch.arange(C, device=grad.device).view(1, -1, 1, 1)
    flat = torch.zeros(grad_input.numel(), device=grad.device, dtype=wide)
    for row, wy in ((y0, 1 - fy), ((y0 + 1).clamp(max=H - 1), fy)):
        for col, wx in ((x0, 1 - fx), ((x0 + 1).clamp(max=W - 1), fx)):
            index = ((image * C + channel) * H + row) * W + col
            flat.index_add_(0, index.flatten(), (grad * wy * wx * found).to(wide).flatten())
    grad_input.add_(flat.view_as(grad_input))


def roi_pool_forward(input: Tensor, rois: Tensor, output: Tensor, argmax: Tensor,
                     pooled_height: int, pooled_width: int, spatial_scale: float) -> None:
    """Fill ``output`` with the maxima of the parts of boxes (Girshick, Fast R-CNN, section 2.1).

    Args:
        input: Map, shape (B, C, H, W).
        rois: Image and corners (b, x1, y1, x2, y2), shape (N, 5).
        output: Shape (N, C, pooled_height, pooled_width); 0 where a part is empty.
        argmax: Filled with the pixel (y * W + x) of each maximum, -1 for none.
        pooled_height: Height of the outputs.
        pooled_width: Width of the outputs.
        spatial_scale: From the coordinates of boxes to those of the map.
    """
    B, C, H, W = input.shape
    argmax.fill_(-1)
    corners = rois[:, 1:].to(wide_dtype(rois))
    corners = torch.cat([corners[:, :2], corners[:, 2:] + 1], dim=1) * spatial_scale
    left, right = _bins(corners[:, 0], corners[:, 2], pooled_width, W)
    top, bottom = _bins(corners[:, 1], corners[:, 3], pooled_height, H)
    heights, widths = (bottom - top).amax(dim=1), (right - left).amax(dim=1)
    filled = ((corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1]) & (heights > 0)
              & (widths > 0)).nonzero().squeeze(1)
    rows = input.permute(0, 2, 3, 1).reshape(B * H * W, C)
    # Boxes of one size together: all parts are read as if they were of the size of the largest.
    for chosen in filled[(heights * widths)[filled].sort()[1]].split(ROIS):
        y = top[chosen].unsqueeze(2) + torch.arange(int(heights[chosen].max()), device=top.device)
        x = left[chosen].unsqueeze(2) + torch.arange(int(widths[chosen].max()), device=top.device)
        inside = ((y < bottom[chosen].unsqueeze(2))[:, :, None, :, None]
                  & (x < right[chosen].unsqueeze(2))[:, None, :, None, :]).flatten(3)
        pixels = (y[:, :, None, :, None] * W + x[:, None, :, None, :]).flatten(3) * inside
        image = rois[chosen, 0].long().view(-1, 1, 1, 1) * (H * W)
        values = rows[image + pixels].masked_fill_(~inside.unsqueeze(-1), -torch.inf)
        best, which = values.max(dim=3)
        any_pixel = inside.any(dim=3, keepdim=True)
        output[chosen] = torch.where(any_pixel, best, 0).permute(0, 3, 1, 2)
        argmax[chosen] = torch.where(any_pixel, pixels.gather(3, which), -1).permute(
            0, 3, 1, 2).to(argmax.dtype)


def roi_pool_backward(grad_output: Tensor, rois: Tensor, argmax: Tensor, grad_input: Tensor,
                      pooled_height: int, pooled_width: int, spatial_scale: float) -> None:
    """Add the gradient of the map to ``grad_input``; arguments as in the forward pass."""
    B, C, H, W = grad_input.shape
    found = argmax >= 0
    image = rois[:, 0].long().view(-1, 1, 1, 1)
    channel = torch.arange(C, device=argmax.device).view(1, -1, 1, 1)
    index = (image * C + channel) * H * W + argmax.clamp(min=0)
    grad_input.view(-1).index_add_(0, index.flatten(), (grad_output * found).flatten())


def _bins(start: Tensor, end: Tensor, bins: int, n: int) -> tuple[Tensor, Tensor]:
    """First pixel of each part of an axis, and the one after its last: (N, bins) each."""
    steps = torch.arange(bins + 1, device=start.device, dtype=start.dtype)
    edges = steps * ((end - start) / bins).unsqueeze(1) + start.unsqueeze(1)
    return edges[:, :-1].floor().clamp(0, n).long(), edges[:, 1:].ceil().clamp(0, n).long()


def deform_roi_pool_forward(input: Tensor, rois: Tensor, offset: Tensor, output: Tensor,
                            pooled_height: int, pooled_width: int, spatial_scale: float,
                            sampling_ratio: int, gamma: float) -> None:
    """Fill ``output`` as RoIAlign does, each part moved by its offset (arXiv 1703.06211, eq. 5-6).

    Args:
        input: Map, shape (B, C, H, W).
        rois: Image and corners (b, x1, y1, x2, y2), shape (N, 5).
        offset: (x, y) in sides of the box, shape (N, 2, pooled_height, pooled_width), or empty.
        output: Shape (N, C, pooled_height, pooled_width).
        pooled_height: Height of the outputs.
        pooled_width: Width of the outputs.
        spatial_scale: From the coordinates of boxes to those of the map.
        sampling_ratio: Points per output pixel and axis; 0 for one per pixel of the map.
        gamma: Factor of the offsets.
    """
    output.copy_(_deform_roi_pool(input, rois, offset, (pooled_height, pooled_width),
                                  spatial_scale, sampling_ratio, gamma))


def deform_roi_pool_backward(grad_output: Tensor, input: Tensor, rois: Tensor, offset: Tensor,
                             grad_input: Tensor, grad_offset: Tensor, pooled_height: int,
                             pooled_width: int, spatial_scale: float, sampling_ratio: int,
                             gamma: float) -> None:
    """Add the gradients of map and offsets; arguments as in the forward pass.

    Where a point is beyond the centres of the outermost pixels, which extend there unchanged, the
    gradient of its position is zero; mmcv's kernel goes on with the slope between the outer two.
    """
    grads = gradients(lambda x, o: _deform_roi_pool(
        x, rois, o, (pooled_height, pooled_width), spatial_scale, sampling_ratio, gamma),
        [input, offset], grad_output)
    grad_input.add_(grads[0])
    grad_offset.add_(grads[1])


def _deform_roi_pool(input: Tensor, rois: Tensor, offset: Tensor, size: tuple[int, int],
                     scale: float, sampling_ratio: int, gamma: float) -> Tensor:
    rows = _rows(input)
    boxes = _Boxes(rois, input.shape[2:], size, scale, sampling_ratio, True)
    shift = rows.new_zeros(len(rois), 2, *size)
    if offset.numel():
        sides = (boxes.bin * boxes.bin.new_tensor(size)).flip(1)  # x, y
        shift = gamma * sides.view(-1, 2, 1, 1) * offset.to(rows.dtype)
    out = rows.new_zeros(len(rois), *size, rows.shape[1])
    for chosen, index, weights in boxes.shifted_averages(shift):
        read = F.embedding_bag(index, rows, per_sample_weights=weights, mode='sum')
        out[chosen] = read.view(-1, *size, rows.shape[1])
    return out.permute(0, 3, 1, 2).to(input.dtype)
