"""Cutting work into equal parts, so that one program serves all of them."""


def largest_divisor(count: int, most: int) -> int:
    """The largest divisor of ``count`` that is at most ``most`` (at least 1).

    Example:
        >>> largest_divisor(12, 5), largest_divisor(7, 5)
        (4, 1)
    """
    return next(k for k in range(min(count, most), 0, -1) if count % k == 0)
