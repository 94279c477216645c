"""Records of named files, read by the kind of file, and of the splits that `datasets` loads.

Columns are compared with the fields that are wanted before any is read, so that an error names those there are.
Nothing heavy is imported for files that are text.
"""

import csv
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING

from unisd_rl.errors import UserError
from unisd_rl.tasks.source_records import SourceRecord, iter_records

if TYPE_CHECKING:
    from datasets import Dataset

_ROWS = 1000  # of Parquet, read at a time
_KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def names_files(path: str) -> bool:
    """Whether a path is that of a file, or a pattern of files, rather than a folder or a name on the hub."""
    return not os.path.isdir(path) and (os.path.isfile(path) or has_magic(path) or _kind(path) in _KINDS)


def named_files(setting: str, path: str) -> list[Path]:
    """The file of a path, or all files that a pattern matches, by name.

    Raises:
        UserError: there is none, or one is of a kind that cannot be read; the sentence names `setting`.
    """
    files = [path] if os.path.isfile(path) else sorted(filter(os.path.isfile, glob(path, recursive=True)))
    if not files:
        raise UserError(f"{setting} = {path!r}: there is no such file; name one, or several as data/*.jsonl")
    if foreign := next((file for file in files if _kind(file) not in _KINDS), None):
        raise UserError(
            f"{setting} = {path!r}: {foreign} is no file of records; their names end in {', '.join(_KINDS)}"
        )
    return list(map(Path, files))


def iter_files(setting: str, path: str, fields: Sequence[str], remedy: str = "") -> Iterator[SourceRecord]:
    """The records of all files that a path or a pattern names, as they are read.

    Raises:
        UserError: see `named_files`; a file cannot be read, or lacks one of `fields` (the sentence ends with `remedy`).
    """
    for file in named_files(setting, path):
        yield from _read(file, fields, remedy)


def first_record(file: Path) -> SourceRecord:
    """The first record of a file, with all its fields.

    Raises:
        UserError: the file cannot be read, or holds no record.
    """
    if _kind(file) == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            rows = next(pq.ParquetFile(file).iter_batches(1), None)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{file} cannot be read as Parquet: {_reason(error)}") from error
        if rows is None:
            raise UserError(f"{file} holds no records")
        return SourceRecord(f"{file}, record 0", rows.to_pylist()[0])
    return next(_read(file, (), ""))


def _read(file: Path, fields: Sequence[str], remedy: str) -> Iterator[SourceRecord]:
    match _kind(file):
        case ".csv":
            return iter_csv(file, fields, remedy)
        case ".tsv":
            return iter_csv(file, fields, remedy, delimiter="\t")
        case ".parquet":
            return iter_parquet(file, fields, remedy)
        case _:
            return iter_records(file, "", remedy)


def _kind(file: str | Path) -> str:
    return Path(file).suffix.lower()


def read_csv(path: Path, fields: Sequence[str], remedy: str = "") -> list[SourceRecord]:
    """All of `iter_csv`.

    Raises:
        UserError: see there.
    """
    return list(iter_csv(path, fields, remedy))


def iter_csv(path: Path, fields: Sequence[str], remedy: str = "", delimiter: str = ",") -> Iterator[SourceRecord]:
    """The records of a CSV file with a header, in UTF-8. Every cell is text as it stands: nothing is guessed.

    Raises:
        UserError: it cannot be read, lacks one of `fields` (the sentence ends with `remedy`), has a column twice, or
            holds a row of another length than its header.
    """
    csv.field_size_limit(sys.maxsize)  # the default refuses cells of more than 128 KiB
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = (row for row in csv.reader(file, delimiter=delimiter, strict=True) if row)
            header = next(rows, None)
            if header is None:
                raise UserError(f"{path} holds no records")
            _check_columns(str(path), header, fields, remedy)
            for number, row in enumerate(rows, start=1):
                if len(row) != len(header):
                    raise UserError(f"{path}, row {number}: it has {len(row)} cells, but the header has {len(header)}")
                yield SourceRecord(f"{path}, row {number}", dict(zip(header, row, strict=True)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}") from error


def iter_parquet(path: Path, fields: Sequence[str], remedy: str = "") -> Iterator[SourceRecord]:
    """The records of a Parquet file, a batch of rows at a time; of their fields those in `fields`.

    Raises:
        UserError: it cannot be read, lacks one of `fields` (the sentence ends with `remedy`), or has a column twice.
    """
    import datasets  # both are a second of imports, only for those who need them
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        _check_columns(str(path), file.schema_arrow.names, fields, remedy)
        columns, read = list(dict.fromkeys(fields)), 0
        for batch in file.iter_batches(_ROWS, columns=columns):
            schema = pa.schema([batch.schema.field(name) for name in batch.schema.names], file.schema_arrow.metadata)
            rows = datasets.Dataset(pa.Table.from_batches([batch]).cast(schema))
            yield from _records(rows, str(path), read)
            read += len(rows)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read as Parquet: {_reason(error)}") from error


def iter_split(
    setting: str,
    path: str,
    name: str | None,
    split: str,
    fields: Sequence[str],
    optional: Sequence[str] = (),
    no_data: str = "",
    no_field: str = "",
) -> Iterator[SourceRecord]:
    """The records of one split, as `datasets.load_dataset(path, name)` has them: its rows are mapped, and each is read
    when it comes.

    Of their fields those in `fields`, which each must have, and those in `optional`. `no_data` and `no_field` are the
    remedies where there are no such records, or no such field.

    Raises:
        UserError: `datasets` cannot load them, or they lack a field; the sentence names `setting`.
    """
    import datasets

    location = f"{setting} = {path!r}, split {split!r}"
    if path.isidentifier() and importlib.util.find_spec(f"datasets.packaged_modules.{path}"):
        # `datasets` would read every file below the working directory.
        raise UserError(
            f"{setting} = {path!r} is the name of a file format: name files, as data/*.{path}, or a folder, as ./{path}"
        )
    try:
        rows = datasets.load_dataset(path, name, split=split)
    except StopIteration:  # what `datasets` raises for files without records
        raise UserError(f"{location} holds no records") from None
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{location}: datasets could not load it ({_reason(error):.200}){no_data}") from error
    _check_columns(location, rows.column_names, fields, no_field)
    rows = rows.select_columns([field for field in rows.column_names if field in (*fields, *optional)])
    for column, kind in rows.features.items():
        if isinstance(kind, datasets.Image):  # only whether there is one matters
            rows = rows.cast_column(column, datasets.Image(decode=False))
    yield from _records(rows, f"{path}, split {split!r}")


def _reason(error: BaseException) -> str:
    """The first line of an error, or its name; that of its cause where a data set could not be made."""
    from datasets.exceptions import DatasetGenerationError

    if isinstance(error, DatasetGenerationError) and error.__cause__ is not None:
        return _reason(error.__cause__)
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _check_columns(location: str, columns: Sequence[str], fields: Sequence[str], remedy: str) -> None:
    present = ", ".join(map(repr, columns)) or "none"
    for field in fields:
        if field not in columns:
            raise UserError(f"{location}: no field {field!r}; it has {present:.300}{remedy}")
        if list(columns).count(field) > 1:
            raise UserError(f"{location}: the field {field!r} occurs twice: leave out or rename one of them")


def _records(rows: "Dataset", location: str, first: int = 0) -> Iterator[SourceRecord]:
    """Rows of `datasets` as records, numbered from `first`, labels by their names: the numbers of a ClassLabel are no
    one's answers."""
    import datasets

    labels = {name: kind.names for name, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)}
    named = ({**row, **{name: _label(row[name], names) for name, names in labels.items()}} for row in rows)
    for number, row in enumerate(named, start=first):
        yield SourceRecord(f"{location}, record {number}", row)


def _label(number: int | None, names: Sequence[str]) -> str | None:
    """The name of a label; None for -1, which stands for a label that the source does not tell."""
    return None if number is None or number < 0 else names[number]
