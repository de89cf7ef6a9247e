"""Memory of tensors on a CPU."""
import ctypes

# Options of mallopt in glibc's malloc.h, and the values that are set.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
SETTINGS = {M_MMAP_THRESHOLD: 32 << 20,  # the maximum
            M_TRIM_THRESHOLD: 1 << 30, M_TOP_PAD: 64 << 20}


def keep_freed_memory() -> bool:
    """Let this process keep the CPU memory of freed tensors; True if that is possible (glibc).

    By default glibc returns this memory to the system, and the system clears each page of the next
    tensor. That costs a tenth of a training step on a CPU (`benchmarks/speed/step.py`).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return all([mallopt(key, value) for key, value in SETTINGS.items()])
