"""What others need of a training's checkpoint: its weights, and what inference asks of its meta."""
from pathlib import Path

from torch import Tensor

from mmlit.errors import CheckpointError, OutputError

from .reading import read_checkpoint, state_dict_of
from .stamps import sha256, stamped
from .weights import check_finite, check_weights
from .writing import replace_when_whole, save_weights, temporary_name

# Names and colours of the classes, as OpenMMLab 2 and 1 call them, and what mmlit made it with.
# All else is of the training, or of the machine it ran on.
INFERENCE_META = ('dataset_meta', 'CLASSES', 'PALETTE', 'mmlit')


def inference_meta(checkpoint: dict) -> dict:
    """What inference needs of a checkpoint's ``meta``; perhaps nothing, but mmseg asks for it."""
    meta = checkpoint.get('meta')
    return {k: meta[k] for k in INFERENCE_META if k in meta} if isinstance(meta, dict) else {}


def without_copies(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights without the second copy of each that mmcv's EMAHook keeps beside it."""
    copies = {f'ema_{name.replace(".", "_")}' for name in state}
    return {k: v for k, v in state.items() if k not in copies}


def publish(source: str | Path, target: str | Path, overwrite: bool = False) -> tuple[Path, int]:
    """Write what inference needs of a checkpoint, with the hash of the file in its name.

    Args:
        source: Path or URL of a checkpoint; it stays as it is.
        target: ``.pth`` or ``.safetensors``, without the hash. No file of this name is touched.
        overwrite: Whether another file that has the final name is replaced.

    Returns:
        The path, such as ``litv2_s-0a1b2c3d.pth``, and the number of weights.

    Raises:
        CheckpointError: If the source cannot be read, or the target ends otherwise.
        OutputError: If another file has the final name, and is not to be overwritten.
    """
    checkpoint, target = read_checkpoint(source), Path(target)
    state = without_copies(state_dict_of(checkpoint))
    check_source(state, source)
    content = dict(state_dict=state, meta=inference_meta(checkpoint))
    partial = temporary_name(target)
    try:
        save_weights(content, partial)
        digest = sha256(partial)
        final = stamped(target, digest)
        if not final.is_file() or sha256(final) != digest:
            replace_when_whole(partial, final, overwrite)
    finally:
        partial.unlink(missing_ok=True)
    return final, len(state)


def check_source(state: dict[str, Tensor], source: str | Path) -> None:
    """Refuse to pass on what could not be loaded.

    Raises:
        CheckpointError: If there is a tensor that is no weight, or one that is not finite.
    """
    try:
        check_weights(state)
        check_finite(state)
    except CheckpointError as e:
        raise CheckpointError(f'checkpoint {source}: {e}') from None


def refuse_own_source(source: str | Path, target: str | Path) -> None:
    """Refuse to write onto the file that is read, also by another name of it.

    Raises:
        OutputError: If they are one file: what the target does not hold would be lost.
    """
    if Path(source).exists() and Path(target).exists() and Path(target).samefile(source):
        raise OutputError(f'{target} is the source itself, {source}, whose optimizer and whatever '
                         'else is not written would be lost: choose another name')
