"""Row kernels: one CUDA C++ function and its torch reference, on a GPU, on the CPU, fused by the compiler."""


def distinct_scratch(length: int) -> int:
    """Bytes of scratch that the helper ``rk_distinct`` needs for a row of ``length`` tokens."""
    return 4 << (max(2 * length, 1) - 1).bit_length()
