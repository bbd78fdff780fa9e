"""Writing a table as Parquet, CSV and into SQLite at once, in pieces of a fixed size.

The pieces do not depend on how rows arrive, so the files are the same to the byte however the work was cut.
"""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

__all__ = ["TableWriter", "escaped", "escaped_text", "open_database"]

ROWS = 1 << 16  # of a Parquet row group
_SQLITE_ROWS = 1 << 13
_SQLITE_TYPES = {pa.int64(): "INTEGER", pa.float64(): "REAL", pa.string(): "TEXT"}
_FORMULA = "^[=+\\-@\t\r]"


class TableWriter:
    """A table being written.

    Parameters
    ----------
    folder : Path
    name : str
        Of the files, without suffix.
    schema : pyarrow.Schema
        Of int64, float64 and string columns.
    database : sqlite3.Connection, optional
    table : str
        Its name in the database.
    prefix : str
        Before the column names in the database, but for ``ImageNumber`` and ``ObjectNumber``: ``Cells_``.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        schema: pa.Schema,
        database: sqlite3.Connection | None = None,
        table: str = "",
        prefix: str = "",
    ) -> None:
        self.schema = schema
        self.rows = 0
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        text = [field.name for field in schema if field.type == pa.string()]
        self._parquet = pyarrow.parquet.ParquetWriter(
            folder / f"{name}.parquet", schema, compression="zstd", use_dictionary=text
        )
        self._csv = pyarrow.csv.CSVWriter(folder / f"{name}.csv", schema)
        self._database = database
        if database is not None:
            self._insert = _create_table(database, table, schema, prefix)

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._flush(everything=True)
        self._parquet.close()
        self._csv.close()

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        self.rows += len(table)
        self._waiting.append(table)
        self._waiting_rows += len(table)
        if self._waiting_rows >= ROWS:
            self._flush(everything=False)

    def _flush(self, everything: bool) -> None:
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting)
        self._waiting, self._waiting_rows = [], 0
        start = 0
        while len(table) - start >= ROWS or (everything and start < len(table)):
            self._write_piece(table.slice(start, ROWS).combine_chunks())
            start += ROWS
        if start < len(table):
            self._waiting = [table.slice(start)]
            self._waiting_rows = len(table) - start

    def _write_piece(self, table: pa.Table) -> None:
        self._parquet.write_table(table, row_group_size=ROWS)
        self._csv.write_table(escaped(table))
        if self._database is None:
            return
        for start in range(0, len(table), _SQLITE_ROWS):
            columns = [column.to_pylist() for column in table.slice(start, _SQLITE_ROWS).columns]
            self._database.executemany(self._insert, zip(*columns))


def escaped(table: pa.Table) -> pa.Table:
    """Keep spreadsheets from taking text for a formula: a quote goes before text that starts like one."""
    for index, field in enumerate(table.schema):
        if field.type != pa.string() or not len(table):
            continue
        column = table.column(index)
        risky = pc.fill_null(pc.match_substring_regex(column, _FORMULA), False)
        if pc.any(risky).as_py():
            safe = pc.if_else(risky, pc.binary_join_element_wise("'", column, ""), column)
            table = table.set_column(index, field, safe)
    return table


def open_database(path: Path) -> sqlite3.Connection:
    """Open a new SQLite file that is only read once it is complete: no journal is kept."""
    database = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode=OFF", "synchronous=OFF", "page_size=8192", "cache_size=-65536"):
        database.execute(f"PRAGMA {pragma}")
    database.execute("BEGIN")
    return database


def _create_table(database: sqlite3.Connection, table: str, schema: pa.Schema, prefix: str) -> str:
    """Create a table and return the statement that fills it."""
    keys = [name for name in ("ImageNumber", "ObjectNumber") if name in schema.names]
    columns = [
        f'"{field.name if field.name in keys else prefix + field.name}" {_SQLITE_TYPES[field.type]}'
        for field in schema
    ]
    primary = f", PRIMARY KEY ({', '.join(keys)})" if keys else ""
    database.execute(
        f'CREATE TABLE "{table}" ({", ".join(columns)}{primary})' + (" WITHOUT ROWID" if keys else "")
    )
    return f'INSERT INTO "{table}" VALUES ({", ".join("?" * len(columns))})'


def escaped_text(text: str) -> str:
    """Do for one text what `escaped` does for tables."""
    return "'" + text if re.match(_FORMULA, text) else text
