"""Time and memory of functions, side by side."""
import ctypes
import gc
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch


def interleave(runs: dict[str, Callable], device: torch.device, rounds: int = 5,
               seconds: float = 0.5,
               clock: Callable[[], float] = time.perf_counter) -> dict[str, list[list[float]]]:
    """Time functions in turns, so that what disturbs the machine disturbs all of them.

    Args:
        runs: Functions by name. Each is called twice before the first round.
        device: Where they compute; waited for before each look at the clock.
        rounds: How often each has its turn.
        seconds: Length of a turn; at least one call.
        clock: What is read before and after each call.

    Returns:
        By name, for each round, the seconds of every call.
    """
    def timed(run: Callable) -> float:
        start = clock()
        run()
        synchronize(device)
        return clock() - start

    for run in runs.values():
        timed(run), timed(run)
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            calls = [timed(run)]
            while sum(calls) < seconds:
                calls.append(timed(run))
            times[name].append(calls)
    return times


def summarise(times: dict[str, list[list[float]]], baseline: str) -> dict[str, dict[str, float]]:
    """Medians, and ratios to one of the functions.

    Returns:
        By name: ``median``, ``p50`` and ``p95``, seconds of a call (the first is the median over
        rounds of a round's mean), and ``speedup``, ``speedup_low`` and ``speedup_high``: median and
        extremes over rounds of the baseline's time divided by that of the same round.
    """
    means = {name: [statistics.fmean(calls) for calls in rounds] for name, rounds in times.items()}
    summary = {}
    for name, rounds in times.items():
        calls = sorted(call for calls in rounds for call in calls)
        ratios = [b / a for a, b in zip(means[name], means[baseline], strict=True)]
        summary[name] = dict(
            median=statistics.median(means[name]), p50=statistics.median(calls),
            p95=calls[min(int(0.95 * len(calls)), len(calls) - 1)],
            speedup=statistics.median(ratios), speedup_low=min(ratios), speedup_high=max(ratios))
    return summary


def peak_memory(run: Callable, device: torch.device, weights: int) -> int:
    """Bytes that weights and one call need together, after a first call that warms up.

    On a CPU that is what the process grows by, at most, in one call: to be trusted only in a
    process that does nothing else.

    Args:
        run: The function.
        device: Where it computes.
        weights: Bytes of the weights, there before the call.
    """
    run()
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device)
    _return_free_memory()
    before = _reset_peak()
    run()
    return weights + max(_peak() - before, 0)


def memory_in_a_process(command: Sequence[str], name: str) -> int:
    """What a command of Python's prints last when it is called with ``--memory-of NAME``.

    On a CPU peak memory is a process's, and wants one where nothing else has been.
    """
    command = [sys.executable, '-W', 'ignore', *command, '--memory-of', name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def machine_rates(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """What no model outruns: operations a second of a large matrix product, and bytes a second that
    a copy reads and writes."""
    size = 8192 if device.type == 'cuda' else 2048
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    source = torch.zeros(2**28, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    times = interleave(dict(product=lambda: a @ b, copy=lambda: target.copy_(source)), device,
                       rounds=5, seconds=0.1)
    best = {name: min(min(calls) for calls in rounds) for name, rounds in times.items()}
    return dict(operations=2 * size**3 / best['product'], bytes=2 * len(source) / best['copy'])


def synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def _return_free_memory() -> None:
    """What the first call has freed counts only when it is taken again."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).malloc_trim(0)


def _reset_peak() -> int:
    """Start anew to watch the peak, where Linux can; return the memory in use."""
    clear = Path('/proc/self/clear_refs')
    if not clear.exists():
        return _peak()
    clear.write_text('5')
    return _status('VmRSS')


def _peak() -> int:
    if Path('/proc/self/status').exists():
        return _status('VmHWM')
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(key: str) -> int:
    lines = Path('/proc/self/status').read_text().splitlines()
    (line, ) = [line for line in lines if line.startswith(f'{key}:')]
    return int(line.split()[1]) * 1024
