"""Non-maximum suppression, soft or hard, and overlaps of boxes."""
import numpy as np
import torch
from torch import Tensor

from .torchvision_ops import torchvision_operator, wide_dtype

__all__ = ['bbox_overlaps', 'nms', 'nms_match', 'softnms']

# Boxes compared with each other at once; those kept are then compared with all that follow.
BLOCK = 256
# On a CPU torchvision's loop over all pairs is quicker for fewer boxes: 1.6 times for 1,000, 0.7
# times for 10,000.
MANY = 4096


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy non-maximum suppression: a box goes if its IoU with a better one that stays exceeds
    the threshold.

    Args:
        boxes: (x1, y1, x2, y2), shape (N, 4).
        scores: Shape (N,).
        iou_threshold: In [0, 1].
        offset: What is added to widths and heights, 0 or 1.

    Returns:
        Indices of the boxes that stay, best first.
    """
    scores, order = scores.sort(0, descending=True)  # which of two equal scores is first is mmcv's
    # Comparing in half precision would call boxes equal that are not.
    boxes = boxes[order].to(wide_dtype(boxes))
    compiled = torchvision_operator('nms', boxes)
    if compiled is not None and offset == 0 and (boxes.is_cuda or len(boxes) < MANY):
        # mmcv compares with a threshold in single precision.
        threshold = float(np.float32(iou_threshold))
        return order[compiled(boxes, scores.to(boxes.dtype), threshold)]
    x1, y1, x2, y2 = boxes.t().contiguous()
    corners = torch.stack([x1, y1, x2, y2, (x2 - x1 + offset) * (y2 - y1 + offset)])
    positions = torch.arange(len(order), device=boxes.device)
    kept = []
    while positions.numel():
        block = corners[:, :BLOCK]
        alone = _greedy(_ious(block, block, offset) > iou_threshold)
        kept.append(positions[:BLOCK][alone])
        rest = corners[:, BLOCK:]
        if rest.shape[1] == 0:
            break
        free = _ious(block[:, alone], rest, offset).amax(dim=0) <= iou_threshold
        corners, positions = rest[:, free], positions[BLOCK:][free]
    return order[torch.cat(kept)] if kept else order


def _greedy(suppresses: Tensor) -> Tensor:
    """Which of some boxes stay, best first, given which one would suppress which, (N, N)."""
    suppresses = suppresses.triu(1).to(torch.float32)
    stays = torch.ones(len(suppresses), dtype=torch.float32, device=suppresses.device)
    while True:  # the first k are right after k rounds at the latest; most often after a few
        now = (stays @ suppresses == 0).to(torch.float32)
        if torch.equal(now, stays):
            return stays > 0
        stays = now


def _ious(first: Tensor, second: Tensor, offset: int) -> Tensor:
    """IoU of boxes given as rows x1, y1, x2, y2, area: (5, N) and (5, M) to (N, M)."""
    a, b = first.unsqueeze(2), second.unsqueeze(1)
    width = (torch.minimum(a[2], b[2]).sub_(torch.maximum(a[0], b[0])).add_(offset)).clamp_(min=0)
    height = (torch.minimum(a[3], b[3]).sub_(torch.maximum(a[1], b[1])).add_(offset)).clamp_(min=0)
    inter = width.mul_(height)
    # Boxes without area give 0 / 0: no overlap.
    return inter.div_((a[4] + b[4]).sub_(inter)).nan_to_num_(nan=0.)


def softnms(boxes: Tensor, scores: Tensor, dets: Tensor, iou_threshold: float, sigma: float,
            min_score: float, method: int, offset: int) -> Tensor:
    """Soft-NMS (Bodla et al., arXiv 1704.04503): overlap lowers the score of the worse box.

    Args:
        boxes: Shape (N, 4), on the CPU.
        scores: Shape (N,).
        dets: Filled with boxes and lowered scores in the order in which they were taken, shape
            (N, 5).
        iou_threshold: Where lowering begins, for methods 0 and 1.
        sigma: Of method 2.
        min_score: A box whose score was lowered below it goes.
        method: 0: to zero; 1: by 1 - IoU; 2: by exp(-IoU² / sigma).
        offset: What is added to widths and heights, 0 or 1.

    Returns:
        Indices of the boxes that stay, in the same order.
    """
    one = np.float32(1)
    x1, y1, x2, y2 = boxes.float().numpy().T
    state = np.stack([x1, y1, x2, y2, (x2 - x1 + offset) * (y2 - y1 + offset),
                      scores.float().numpy()])
    index, n, i = np.arange(state.shape[1]), state.shape[1], 0
    out = dets.numpy()
    while i < n:
        best = i + int(state[5, i:n].argmax())
        state[:, [i, best]], index[[i, best]] = state[:, [best, i]], index[[best, i]]
        out[i, :4], out[i, 4] = state[:4, i], state[5, i]
        rest = state[:, i + 1:n]
        width = np.maximum(0, np.minimum(state[2, i], rest[2]) - np.maximum(state[0, i], rest[0])
                           + offset)
        height = np.maximum(0, np.minimum(state[3, i], rest[3]) - np.maximum(state[1, i], rest[1])
                            + offset)
        inter = width * height
        with np.errstate(invalid='ignore', divide='ignore'):
            iou = inter / (state[4, i] + rest[4] - inter)
        if method == 2:
            rest[5] *= np.exp(-(iou * iou) / np.float32(sigma))
        else:
            rest[5] *= np.where(iou >= iou_threshold, one - iou if method == 1 else 0, one)
        i += 1
        n = i + _close_gaps(rest, index[i:n], rest[5] >= min_score)
    return torch.from_numpy(index[:n].copy())


def _close_gaps(state: np.ndarray, index: np.ndarray, stays: np.ndarray) -> int:
    """Fill the places of columns that go with the last ones that stay; return how many stay.

    Which of two equal scores is found first depends on this order, which is mmcv's.
    """
    count = int(stays.sum())
    gaps = np.flatnonzero(~stays[:count])
    movers = count + np.flatnonzero(stays[count:])[::-1]
    state[:, gaps], index[gaps] = state[:, movers], index[movers]
    return count


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of boxes: each box that NMS keeps, followed by those that it suppresses.

    Args:
        dets: Boxes and scores, shape (N, 5), on the CPU.
        iou_threshold: A box with this IoU or more belongs to the group.

    Returns:
        Indices, groups and their members by score.
    """
    order = dets[:, 4].sort(0, descending=True)[1]
    x1, y1, x2, y2 = dets[order, :4].float().t()
    corners = torch.stack([x1, y1, x2, y2, (x2 - x1) * (y2 - y1)])
    positions, groups = order, []
    while positions.numel():
        joins = _ious(corners[:, :1], corners, 0)[0] >= iou_threshold
        joins[0] = True
        groups.append(positions[joins].tolist())
        corners, positions = corners[:, ~joins], positions[~joins]
    return groups


def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool,
                  offset: int) -> None:
    """Fill ``ious`` with the IoU (mode 0) or the share of the first box (mode 1).

    Args:
        bboxes1: Shape (N, 4).
        bboxes2: Shape (M, 4); M equals N if ``aligned``.
        ious: Shape (N, M), or (N,) if ``aligned``.
        mode: 0 or 1.
        aligned: Whether each box is compared with its counterpart alone.
        offset: What is added to widths and heights, 0 or 1.
    """
    a, b = (bboxes1, bboxes2) if aligned else (bboxes1[:, None], bboxes2[None])
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
             + offset).clamp(min=0)
    inter = sides.prod(-1)
    area1, area2 = ((t[..., 2:] - t[..., :2] + offset).prod(-1) for t in (a, b))
    ious.copy_(inter / (area1 if mode == 1 else area1 + area2 - inter))
