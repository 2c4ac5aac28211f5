"""Small text files: plain or gzipped, with or without a byte order mark."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

from agcnn_jax.runtime.errors import UserError

GZIP_MAGIC = b"\x1f\x8b"


def read_text(path: Path) -> str:
    """Return the text of a file, gunzipped if necessary, without a byte order mark.

    Raises:
        UserError: the file cannot be read, is corrupt or is not UTF-8.
    """
    try:
        data = path.read_bytes()
        if data.startswith(GZIP_MAGIC):
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise UserError(f"{path}: the gzip file is corrupt; download it again") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a UTF-8 text file; download it again") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; check the path and its permissions") from None


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield `(line number from 1, fields)` of a csv file, skipping blank lines.

    Raises:
        UserError: as for `read_text`, or the text is not csv.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        for row in reader:
            if any(field.strip() for field in row):
                yield reader.line_num, [field.strip() for field in row]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; is it a csv file?") from None


def read_names(path: Path) -> list[str]:
    """Return the image names in a list file: the first word of each non-blank line."""
    return [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
