"""Text and tables that a user wrote: UTF-8 or refused with the way to save them so.

Knows no dataset. Invariant: a cell is read whole or the file is refused.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from engine.errors import DatasetError

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


def read_text(path: Path, *, fix: str) -> str:
    """The whole file, with or without a byte order mark; DatasetError with `fix` where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].count(b"\n") + 1
        raise DatasetError(
            f"{path}, line {before}: byte 0x{error.object[error.start]:02x} is not UTF-8 text", fix=fix
        ) from error
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}", fix="check its rights") from error


def read_rows(
    path: Path, columns: Sequence[str], *, fix: str, fix_columns: str, telling: Mapping[str, str] = _NOTHING
) -> list[tuple[int, dict[str, str]]]:
    """(number of the last line, cells by column) of each row of a CSV file; a missing cell is "".

    DatasetError where the file is no UTF-8 text, lacks one of `columns`, or holds a cell that the reader does
    not take (over 128 KiB, or a NUL). `telling`: a column that tells which other schema it is, and its name.
    """
    with io.StringIO(read_text(path, fix=fix), newline="") as file:
        reader = csv.DictReader(file)
        try:
            found = list(reader.fieldnames or [])
            absent = [column for column in columns if column not in found]
            if absent:
                other = "".join(f" ({name})" for column, name in telling.items() if column in found)
                raise DatasetError(
                    f"{path} has no column {', '.join(absent)}; it has: {', '.join(found) or 'none'}{other}",
                    fix=fix_columns,
                )
            return [(reader.line_num, {c: record[c] or "" for c in columns}) for record in reader]
        except csv.Error as error:
            raise DatasetError(
                f"{path}, line {reader.line_num + 1}: {error}", fix="correct the row; a quote may be open"
            ) from error
