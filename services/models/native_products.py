"""Products of the codecs' kernels (services/models/kernels/convolution.h): their weights, and what needs no more."""

from __future__ import annotations

import ctypes
import logging
import mmap
from collections.abc import Sequence
from functools import cache

import torch
from torch.nn import functional

from services.models.kernels import build

LANES, FEW = 16, 4
_PAGE_BYTES, _BLOCK_BYTES = 2 << 20, 64 << 20
_log = logging.getLogger("antiphon.kernels")


class Unsupported(Exception):
    """A layer that the kernels do not run; PyTorch does."""


class Product(ctypes.Structure):
    """A convolution's weights, as ``convolution.h`` has them."""

    _fields_ = (
        ("weights", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("fan_in", "fan_out", "kernel", "dilation")),
    )


@cache
def kernels() -> ctypes.CDLL | None:
    """Return the library, or none where it can't be built."""
    try:
        library = build.load("codec")
    except build.NoCompiler as error:
        _log.warning("codecs run in PyTorch, which is slower", extra={"reason": str(error)})
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.codec_rows.restype = number
    library.codec_rows.argtypes = pointer, pointer, number
    library.codec_push.argtypes = pointer, number, pointer, pointer, pointer, number, pointer, number
    library.codec_quantise.argtypes = pointer, number, pointer, number, pointer, number
    return library


class Memory:
    """Memory in large pages: a chunk reads every weight once, and would else look up a page for every 4 KB."""

    def __init__(self) -> None:
        self._blocks: list[torch.Tensor] = []
        self._free = torch.zeros(0)

    def keep(self, values: torch.Tensor) -> int:
        """Copy float32 values in; return where they are."""
        count = -(-values.numel() // LANES) * LANES
        if count > len(self._free):
            # Only what is written to becomes memory. One page more, to begin at a whole one.
            size = max(_BLOCK_BYTES, 4 * count) + _PAGE_BYTES
            block = mmap.mmap(-1, size)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                block.madvise(mmap.MADV_HUGEPAGE)
            whole = torch.frombuffer(block, dtype=torch.float32)
            self._free = whole[-whole.data_ptr() % _PAGE_BYTES // 4 :]
            self._blocks.append(whole)
        self._free[: values.numel()] = values.reshape(-1)
        address, self._free = self._free.data_ptr(), self._free[count:]
        return address


def pack(weight: torch.Tensor, bias: torch.Tensor | None, memory: Memory, dilation: int = 1) -> Product:
    """Lay out ``[out, in, kernel]`` for the kernels."""
    fan_out, fan_in, kernel = weight.shape
    rows = weight.detach().float().transpose(1, 2).reshape(fan_out, kernel * fan_in)
    offsets = torch.zeros(fan_out) if bias is None else bias.detach().float()
    if fan_out > FEW or dilation > 1 or kernel * fan_in % LANES:
        padding = -fan_out % LANES
        rows = functional.pad(rows, (0, 0, 0, padding)).view(-1, LANES, kernel * fan_in).transpose(1, 2)
        offsets = functional.pad(offsets, (0, padding))
    return Product(memory.keep(rows), memory.keep(offsets), fan_in, fan_out, kernel, dilation)


class _Book(ctypes.Structure):
    _fields_ = (("scores", Product), ("entries", ctypes.c_void_p))


class NativeQuantizer:
    """Nearest entries of residual codebooks, each float32 ``[N, D]``.

    Raises:
        Unsupported: the kernels do not run books of this size, or can't be built.
    """

    def __init__(self, books: Sequence[torch.Tensor]) -> None:
        library, first = kernels(), books[0]
        if library is None or first.device.type != "cpu" or first.shape[0] % LANES or first.shape[0] <= FEW:
            raise Unsupported("no kernels, or books of another kind")
        if any(book.shape != first.shape for book in books):
            raise Unsupported("books of different sizes")
        self._library, self._weights = library, Memory()
        packed = []
        for book in books:
            scores = pack(2 * book[:, :, None], -book.pow(2).sum(1), self._weights)
            packed.append(_Book(scores, self._weights.keep(book)))
        self._books = (_Book * len(packed))(*packed)

    def encode(self, vectors: torch.Tensor, count: int) -> torch.Tensor:
        """Return codes ``[K, n]`` in the first ``count`` codebooks of vectors ``[n, D]``."""
        vectors, rows = vectors.contiguous(), len(vectors)
        codes = torch.empty(count, rows, dtype=torch.long)
        self._library.codec_quantise(
            self._books, count, vectors.data_ptr(), rows, codes.data_ptr(), torch.get_num_threads()
        )
        return codes
