"""Files that nobody should be able to stop a prediction with."""

import io
import os
import struct
import zlib

import numpy as np
from PIL import Image

from tests.data.dicom_files import encoded, radiograph


def chunk(kind, body):
    check = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


def png_of(width, height, pixels):
    """A PNG whose header and compressed pixels need not fit."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def whole_films():
    """A small film of each kind, `{extension: bytes}`."""
    gray = np.add.outer(np.arange(40), np.arange(48)).astype(np.uint8)
    films = {"dcm": encoded(radiograph(gray.astype(np.uint16)))}
    for extension, kind in {"png": "PNG", "jpg": "JPEG", "tif": "TIFF"}.items():
        buffer = io.BytesIO()
        Image.fromarray(gray).save(buffer, kind)
        films[extension] = buffer.getvalue()
    return films


def _bomb():
    """Zeros that inflate to 256 MiB."""
    packer = zlib.compressobj(9)
    zeros = bytes(1 << 20)
    return b"".join(packer.compress(zeros) for _ in range(256)) + packer.flush()


def write_hostile(folder, count=500, seed=0):
    """Write `count` files of noise, damage and false claims; return the paths.

    Names of other kinds than files and awkward names come on top.
    """
    generator = np.random.default_rng(seed)
    films = whole_films()
    contents = {
        "bomb.png": png_of(64, 64, _bomb()),
        "large.png": png_of(50_000, 50_000, zlib.compress(bytes(1000))),
        "wide.png": png_of(2**31 - 1, 1, zlib.compress(b"\0\0")),
        "large.dcm": encoded(radiograph(np.zeros((4, 4), np.uint8), Rows=50_000, Columns=50_000)),
        "frames.dcm": encoded(radiograph(np.zeros((4, 4), np.uint8), NumberOfFrames=10**9)),
        "signature.tif": b"II*\0\xff\xff\xff\xff",
        "loop.tif": b"II*\0" + struct.pack("<IHHHIIII", 8, 1, 256, 4, 1, 64, 8, 0),
        "empty.png": b"",
    }
    extensions = list(films)
    for i in range(count):
        kind = extensions[i % 4]
        data = bytearray(films[kind])
        if i % 5 == 0:
            data = bytearray(generator.bytes(int(generator.integers(1, 5000))))
        elif i % 5 == 1:
            del data[int(generator.integers(0, len(data))) :]
        elif i % 5 == 2:
            for place in generator.integers(0, len(data), 20):
                data[place] ^= 1 << int(generator.integers(8))
        elif i % 5 == 3:  # noise after a header that is right
            start = int(generator.integers(4, min(200, len(data))))
            data[start:] = generator.bytes(len(data) - start)
        else:  # whole, under another kind's name
            kind = extensions[(i + 1) % 4]
        contents[f"{i:03d}.{kind}"] = bytes(data)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "nowhere.png").symlink_to("/nonexistent/film.png")
    (folder / "around").symlink_to(folder)
    for name in (b"..%2f..%2fetc.png", b"a\nb.png", b"\xff\xfe.png", b"-rf.png", b"=1+1.png"):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(films["png"])
    with open(folder / "sparse.tif", "wb") as file:
        file.truncate(2**40)
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
