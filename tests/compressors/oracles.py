"""The compressors in float64 NumPy, by sorting; random places are an argument."""

import numpy as np


def top_k(row, share):
    k = max(1, round(share * len(row)))
    places = np.argsort(-np.abs(row), kind="stable")[:k]
    return only(row, places)


def random_k(row, share, places):
    assert len(set(places)) == max(1, round(share * len(row)))
    return only(row, places)


def int8(row):
    scale = np.abs(row).max() / 127
    return np.round(row / scale) * scale if scale else row


def sign(row):
    return np.where(row >= 0, 1, -1) * np.abs(row).mean()


def only(row, places):
    out = np.zeros_like(row)
    out[places] = row[places]
    return out


COMPRESSED = {
    "none": lambda row: row, "top_k": top_k, "random_k": random_k, "int8": int8, "sign": sign,
}  # fmt: skip
