"""The bytes of a picture where Pillow keeps them, by Arrow's C interface.

`numpy.asarray` copies them in pieces and joins the pieces, which takes longer than a good part of a resize. Pillow
keeps four bytes for each pixel of RGB, and lends them where the picture is one block of memory: up to 16 MB, unless
$PILLOW_BLOCK_SIZE says otherwise.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


class _ArrowArray(ctypes.Structure):
    """The head of Arrow's structure of that name; behind it is what its owner needs."""

    _fields_ = (
        ("length", ctypes.c_int64),
        ("num_nulls", ctypes.c_int64),
        ("offset", ctypes.c_int64),
        ("num_buffers", ctypes.c_int64),
        ("num_children", ctypes.c_int64),
        ("buffers", ctypes.POINTER(ctypes.c_void_p)),
        ("children", ctypes.POINTER(ctypes.c_void_p)),
    )


_address_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


@dataclass(frozen=True)
class _Loan:
    """What an array that shows the bytes holds on to."""

    capsule: object
    __array_interface__: dict[str, Any]


def borrowed(picture: Image.Image) -> Tensor | None:
    """Bytes [H, W, 4] of an RGB picture, not to be written, a pixel's fourth nobody's; None where it lends no such."""
    try:
        _, capsule = picture.__arrow_c_array__()
    except (AttributeError, ValueError):  # Pillow before 11.2; a picture in several blocks
        return None
    pixels = _ArrowArray.from_address(_address_of(capsule, b"arrow_array"))
    if pixels.num_children != 1:
        return None
    values = _ArrowArray.from_address(pixels.children[0])
    shape = (picture.height, picture.width, 4)
    if (values.length, values.offset, values.num_buffers) != (shape[0] * shape[1] * shape[2], 0, 2):
        return None
    interface = {"version": 3, "typestr": "|u1", "shape": shape, "data": (values.buffers[1], False)}
    return torch.from_numpy(np.asarray(_Loan(capsule, interface)))
