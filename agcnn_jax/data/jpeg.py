"""Check whether a JPEG is whole: Pillow decodes a damaged one without a warning."""

from __future__ import annotations

import struct

from agcnn_jax.data.pixels import UnreadableImageError, check_pixels

SIGNATURE = b"\xff\xd8\xff"

_READ = (0xC0, 0xC1, 0xC2)
"""The markers of frames that are read: baseline, extended sequential and progressive (ITU T.81)."""

_OTHERS = {
    **dict.fromkeys((0xC3, 0xC7, 0xCB, 0xCF), "a lossless JPEG file"),
    **dict.fromkeys((0xC5, 0xC6, 0xCD, 0xCE), "a hierarchical JPEG file"),
    **dict.fromkeys((0xC9, 0xCA), "a JPEG file of arithmetic coding"),
    0xF7: "a JPEG-LS file",
}
_SCAN = 0xDA


def check_jpeg(data: bytes) -> None:
    """Check a JPEG's kind, its size and its coded data.

    libjpeg decodes coded data that make no sense to gray or noise and warns, and Pillow and OpenCV
    lose its warnings. tensorstore makes errors of them. It reads no CMYK, which is not checked.

    Args:
        data: content of the file, which begins with `SIGNATURE`.

    Raises:
        UnreadableImageError: truncated, damaged, larger than `MAX_PIXELS`, of a kind that is not
            read, or tensorstore is missing.
    """
    _check_header(data)
    # Only now: other films need no tensorstore, and a process may fork before the first JPEG.
    try:
        import tensorstore
    except ModuleNotFoundError:
        raise UnreadableImageError(
            "a JPEG, which cannot be checked for damage without tensorstore; install it"
        ) from None
    from agcnn_jax.runtime.forks import forked

    if forked():  # tensorstore would abort it
        raise UnreadableImageError(
            "a JPEG, and this process was forked; start it with multiprocessing's spawn"
        )
    # A store and a context of its own for each call: threads would share any other.
    context = tensorstore.Context({"data_copy_concurrency": {"limit": 1}})
    store = tensorstore.KvStore.open("memory://", context=context).result()
    store["image"] = data
    spec = {"driver": "jpeg", "kvstore": {"driver": "memory", "path": "image"}}
    try:
        image = tensorstore.open(spec, context=context, open=True, read=True).result()
        image.read().result()
    except ValueError as error:
        if "Premature end of JPEG file" in str(error):
            raise UnreadableImageError("truncated") from None
        if "Corrupt JPEG data" in str(error):
            raise UnreadableImageError("damaged: its coded data do not fit its size") from None


def _check_header(data: bytes) -> None:
    """Read the segments before the coded data: kind and size of the frame."""
    position = len(SIGNATURE) - 1
    while True:
        if position + 4 > len(data):
            raise UnreadableImageError("truncated")
        begin, marker, length = struct.unpack_from(">BBH", data, position)
        if begin != 0xFF or not marker:
            raise UnreadableImageError("damaged: no JPEG that can be decoded")
        if marker == 0xFF:  # any number of them may stand before a marker
            position += 1
            continue
        if marker in _OTHERS:
            raise UnreadableImageError(f"{_OTHERS[marker]}; save it as PNG")
        if marker in _READ and position + 10 <= len(data):
            bits, height, width = struct.unpack_from(">BHH", data, position + 4)
            if bits != 8:
                raise UnreadableImageError(f"a JPEG file of {bits} bits; save it as PNG")
            check_pixels(width, height)
        if marker == _SCAN:
            return
        position += 2 + length
