"""Delimited text: reading tables and lists of other programs, plain or gzipped; writing CSV."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.paths import expanded_path

GZIP_MAGIC = b"\x1f\x8b"
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
IMAGE_COLUMNS = ("Image Index", "image", "Path", "image id", "image name", "file name", "file")
"""Headers of the column of image names, in any spelling; the first that a table has counts."""

_AS_CSV = "write it as text, such as with pandas.{reader}(FILE).to_csv(NEW_FILE, index=False)"
_UNZIP = "unpack it and give the file in it"
_FROM_SPREADSHEET = "save it as 'CSV UTF-8' in the spreadsheet program"
_FROM_ARRAY = "write it as a CSV file with names of images and columns"
_ZIP = b"PK\x03\x04"
# The first bytes of other files -> what they are, and the remedy.
_OTHERS = {
    b"PAR1": ("a Parquet table", _AS_CSV.format(reader="read_parquet")),
    b"ARROW1": ("an Arrow table", _AS_CSV.format(reader="read_feather")),
    b"\x93NUMPY": ("a NumPy array", _FROM_ARRAY),
    b"\x89HDF": ("an HDF5 file", _AS_CSV.format(reader="read_hdf")),
    b"\xd0\xcf\x11\xe0": ("an Excel workbook", _FROM_SPREADSHEET),
    _ZIP: ("a zip archive", _UNZIP),
    b"BZh": ("a bzip2 file", _UNZIP),
    b"\xfd7zXZ": ("an xz file", _UNZIP),
}
# The same for zip archives that hold these bytes.
_ZIPPED = {
    b"xl/workbook": _OTHERS[b"\xd0\xcf\x11\xe0"],
    b"application/vnd.oasis.opendocument.spreadsheet": (
        "an OpenDocument spreadsheet",
        _FROM_SPREADSHEET,
    ),
    b".npy": ("a NumPy archive", _FROM_ARRAY),
}
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_EXTENSIONS = ("png", "jpg", "jpeg", "tif", "tiff", "dcm", "dicom")
_IMAGE_END = rf"\.(?:{'|'.join(_EXTENSIONS)})"
# An image at the start of a line. Its folders may have spaces and, in quotes or an absolute path,
# commas.
_IMAGE = re.compile(
    rf'(?:"([^"]*{_IMAGE_END})"|'
    rf'"?((?:(?:[a-z]:)?[./\\~][^"]*?|[^",;\t]*?){_IMAGE_END})"?)(?=[\s,;]|$)',
    re.IGNORECASE,
)


class DelimitedText(NamedTuple):
    """The text of a table.

    Attributes:
        path: of the file.
        text: without a byte order mark.
        delimiter: one of `DELIMITERS`.
        marked: the file begins with a byte order mark.
    """

    path: Path
    text: str
    delimiter: str
    marked: bool

    @property
    def note(self) -> str:
        """Say how the table is read if it differs from plain CSV; "" otherwise."""
        unusual = [f"columns separated by {DELIMITERS[self.delimiter]}"] * (self.delimiter != ",")
        unusual += ["a byte order mark, which is left out"] * self.marked
        return f"{self.path}: read with {' and '.join(unusual)}" if unusual else ""

    def rows(self, strip: bool = True) -> Iterator[tuple[int, list[str]]]:
        """Yield `(number from 1 of the row's first line, fields)`, skipping blank lines.

        Args:
            strip: remove the blanks around fields.

        Raises:
            UserError: the text is not a table.
        """
        # A StringIO would take four bytes a character.
        lines = io.TextIOWrapper(io.BytesIO(self.text.encode()), "utf-8", newline="")
        reader = csv.reader(lines, delimiter=self.delimiter)
        first = 1  # a quote that is not closed makes a row of all lines below it
        try:
            for row in reader:
                stripped = [field.strip() for field in row]
                if any(stripped):
                    yield first, stripped if strip else row
                first = reader.line_num + 1
        except csv.Error as error:
            raise UserError(
                f"{self.path}, line {first}: {error}; is it a csv file, with all quotes closed?"
            ) from None


def read_delimited(path: Path) -> DelimitedText:
    """Read a table; the delimiter is the one that divides its first line into most fields.

    One that makes a column of `IMAGE_COLUMNS` comes before others, which headers may contain.

    Raises:
        UserError: as for `read_text`.
    """
    text, marked = _decode(path)
    first = next((line for line in io.StringIO(text) if line.strip()), "")

    def fields(delimiter: str) -> tuple[bool, int]:
        try:
            header = next(csv.reader([first], delimiter=delimiter), [])
        except csv.Error:
            return False, 0  # `rows` says what is wrong
        names = set(map(plain, IMAGE_COLUMNS))
        return not names.isdisjoint(map(plain, header)), len(header)

    return DelimitedText(path, text, max(DELIMITERS, key=fields), marked)


def read_text(path: Path) -> str:
    """Return the text of a file, gunzipped if necessary, without a byte order mark.

    Raises:
        UserError: the file cannot be read, is corrupt or is not UTF-8.
    """
    return _decode(path)[0]


def _decode(path: Path) -> tuple[str, bool]:
    """Return a file's text, and whether it begins with a byte order mark."""
    try:
        data = expanded_path(path).read_bytes()
        if data.startswith(GZIP_MAGIC):
            data = gzip.decompress(data)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise UserError(f"{path}: the gzip file is corrupt; download it again") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; check the path and its permissions") from None
    _check_is_text(path, data)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}: not a UTF-8 text file, since line {line} has the byte "
            f"0x{data[error.start]:02x}; if it is Windows-1252, save it as 'CSV UTF-8', or convert "
            f"it with iconv -f WINDOWS-1252 -t UTF-8"
        ) from None
    return text.removeprefix("\ufeff"), text.startswith("\ufeff")


def _check_is_text(path: Path, data: bytes) -> None:
    """Raise `UserError` for UTF-16 and for files that are no text, with their kind."""
    for magic, (kind, remedy) in _OTHERS.items():
        if data.startswith(magic):
            if magic == _ZIP:
                kind, remedy = next((_ZIPPED[it] for it in _ZIPPED if it in data), (kind, remedy))
            raise UserError(f"{path}: is {kind}, no text; {remedy}")
    zeros = data.count(0, 0, 1000)
    if data.startswith(_UTF_16) or zeros > len(data[:1000]) / 4:
        raise UserError(
            f"{path}: is UTF-16 text; save it as 'CSV UTF-8', or convert it with "
            f"iconv -f UTF-16 -t UTF-8"
        )
    if b"\0" in data:
        raise UserError(f"{path}: is no text file, since it has zero bytes; check the path")


def read_names(path: Path, known: Container[str] = ()) -> list[str]:
    """Return the image names in a list file: the first field of each line.

    A line that is one of the `known` names counts whole, whatever is in it.

    Fields end at white space, commas and semicolons, but a name with the extension of an image may
    have these in its folders. Blank lines, lines that begin with `#`, and a first line that is the
    header of a column of `IMAGE_COLUMNS` are left out.
    """
    names = []
    for line in map(str.strip, read_text(path).splitlines()):
        if line in known:
            names.append(line)
        elif line and not line.startswith("#"):
            image = _IMAGE.match(line)
            names.append(
                image[1] or image[2]
                if image
                else re.split(r"[\s,;]", line, maxsplit=1)[0].strip('"')
            )
            header = re.split(r"[,;\t]", line, maxsplit=1)[0].strip(' "')
            if len(names) == 1 and plain(header) in map(plain, IMAGE_COLUMNS):
                names.clear()
    return names


def plain(name: str) -> str:
    """Remove what spellings of a name differ in: capitals, spaces and underscores."""
    return re.sub(r"[\s_]+", "", name).lower()


def stem(name: str) -> str:
    r"""Return the base name of an image, without folders (`/` or `\`) and extension."""
    base = name.replace("\\", "/").rpartition("/")[2]
    start, _, extension = base.rpartition(".")
    return start if start and extension.lower() in _EXTENSIONS else base


def match_names(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Find the images that names of other programs mean.

    Args:
        names: perhaps with more or fewer folders in front than in `known`, with another extension,
            or without one.
        known: the names of the images.

    Returns:
        `{name: known name}`, without the names that fit none, or several; see `fitting_names`.
    """
    fitting = fitting_names(names, known)
    return {name: images[0] for name, images in fitting.items() if len(images) == 1}


def fitting_names(names: Iterable[str], known: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Find the images that each name may mean; see `match_names`.

    Returns:
        `{name: known names}`: the same name or, failing that, up to two that agree with it in
        `stem` and in as many folders before it as both have. Of these, the ones that agree in most
        folders count.
    """
    images = dict.fromkeys(known)
    unique = dict.fromkeys(names)
    parts_of = {name: name_parts(name) for name in unique if name not in images}
    lengths = set(map(len, parts_of.values()))
    by_whole: dict[tuple[str, ...], tuple[str, ...]] = {}
    by_end: dict[tuple[str, ...], tuple[str, ...]] = {}
    for image in images if parts_of else ():
        parts = name_parts(image)
        by_whole[parts] = (*by_whole.get(parts, ()), image)[:2]
        for length in lengths:
            if length <= len(parts):
                end = parts[-length:]
                by_end[end] = (*by_end.get(end, ()), image)[:2]

    def fitting(name: str) -> tuple[str, ...]:
        parts = parts_of.get(name)
        if parts is None:
            return (name,)
        shorter = (by_whole.get(parts[first:], ()) for first in range(1, len(parts)))
        return by_end.get(parts) or next(filter(None, shorter), ())

    return {name: fitting(name) for name in unique}


def name_parts(name: str) -> tuple[str, ...]:
    """Return the folders of an image and its `stem`."""
    return (*name.replace("\\", "/").split("/")[:-1], stem(name))


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    r"""Return a table as CSV, with lines that end in `\n`.

    Args:
        header: names of the columns.
        rows: cells of each row; None is an empty cell, and floats have all their digits. A row
            that is shorter than the header ends in empty cells.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([*row, *[None] * (len(header) - len(row))] for row in rows)
    return text.getvalue()
