"""Memory of tensors on a CPU."""
import ctypes

# Numbers of glibc's malloc.h, and what they are set to.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
SETTINGS = {M_MMAP_THRESHOLD: 32 << 20,  # the most that it takes
            M_TRIM_THRESHOLD: 1 << 30, M_TOP_PAD: 64 << 20}


def keep_freed_memory() -> bool:
    """Let this process keep what its tensors free; True where that is possible (glibc).

    By default glibc gives a freed tensor back to the system, which clears each page of the next
    one: a tenth of a training step on a CPU (`benchmarks/speed/step.py`). No GPU memory is meant.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another system
        return False
    return all([mallopt(key, value) for key, value in SETTINGS.items()])
