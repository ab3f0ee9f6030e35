"""Large parquet and arrow files: their rows stay in a table, and become questions when they are read.

A file of a million rows is checked in about a second, because whole columns are checked at once: a row whose question
and answers are ordinary texts cannot be a bad one. Only the other rows are converted for the check. If one of them is
bad, or if two rows may be copies, the file is read row by row (`read_questions`), which says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ...errors import require
from ...types import Dataset, Question
from .columns import matches
from .readers import ALIASES, ANSWERS, IDS, PROMPTS, QUESTIONS, QuestionReader
from .rows import NumberedRow, RowError

LEAST_ROWS = 50_000
"""Smaller files are read row by row: a question that has been made costs nothing when it is read again."""
_MOST_UNUSUAL = 0.1
"""Share of rows that may be converted for the check; with more of them, all rows are."""
_BATCH = 4096
_ORDINARY_TEXT = r"^\s*[^\p{Z}\p{C}\[({]"
"""A text whose first sign is neither white space (which is in Z or C) nor a bracket is not blank, and not a list or a
dict stored as text."""
_ORDINARY_ID = r"^[!-~](.*[!-~])?$"
"""An id that stripping does not change."""


class TableQuestions(Sequence[Question]):
    """The questions of a table, made from its rows whenever they are read.

    Args:
        table: the rows, as a `pyarrow.Table`; each must be a question.
        convert: makes the question of a row.
    """

    # Any: pyarrow is not imported before it is needed
    def __init__(self, table: Any, convert: Callable[[NumberedRow], Question]) -> None:
        self._table, self._convert = table, convert

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, index: int) -> Question: ...
    @overload
    def __getitem__(self, index: slice) -> list[Question]: ...
    def __getitem__(self, index: int | slice) -> Question | list[Question]:
        indexes = range(len(self))[index]
        if isinstance(indexes, range):
            return [self[i] for i in indexes]
        return self._convert(_numbered(indexes, self._table.slice(indexes, 1).to_pylist()[0]))

    def __iter__(self) -> Iterator[Question]:
        batches = self._table.to_batches(max_chunksize=_BATCH)
        rows = (row for batch in batches for row in batch.to_pylist())
        return (self._convert(_numbered(index, row)) for index, row in enumerate(rows))

    def first_without_prompt(self) -> int | None:
        """The index of the first question without a prompt (`Question.prompt`); None if all have one.

        A column of messages is checked as a whole. Otherwise every question is made.
        """
        if _all_have_messages(self._table):
            return None
        return next((index for index, question in enumerate(self) if not question.prompt), None)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # like that of a list


def read_table_questions(
    files: Sequence[Path], *, where: str, name: str, split: str, format: str | None = None
) -> Dataset | None:
    """The questions of a large parquet or arrow file, or of all its shards.

    Args:
        files: the files, in order.
        where: as in `read_questions`, like the other arguments.
        name: name of the dataset.
        split: the split of rows that do not name one.
        format: one of `FORMATS`; None: detected from the first row.

    Returns:
        The dataset; None if it must be read row by row: the files are small or of another kind, or not every row is
        known to be a question of its own.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    table = _read_table(files)
    if table is None or table.num_rows < LEAST_ROWS:
        return None
    convert = QuestionReader(name, split, format, {})
    try:
        convert.convert(_numbered(0, table.slice(0, 1).to_pylist()[0]))
        if not _has_distinct_ids(table, convert.format):
            return None
        ordinary = [_ordinary_rows(batch, convert.format) for batch in table.to_batches()]
        unusual = np.flatnonzero(~np.concatenate(ordinary))
        if len(unusual) > _MOST_UNUSUAL * table.num_rows:
            return None
        for index, row in zip(unusual.tolist(), table.take(unusual).to_pylist(), strict=True):
            convert.convert(_numbered(index, row))
    except (RowError, UnicodeDecodeError):
        return None
    metadata = {"format": convert.format or "", "source": where}
    return Dataset(name, split, TableQuestions(table, convert.convert), metadata=metadata)


def _numbered(index: int, row: Any) -> NumberedRow:
    return NumberedRow(f"row {index + 1}", index + 1, row)


def _read_table(files: Sequence[Path]) -> Any:
    """The rows of all files as one valid table; None if there is none. An arrow file stays on the disk."""
    suffixes = {file.suffix for file in files}
    if suffixes not in ({".parquet"}, {".arrow"}):
        return None
    arrow, parquet = require("pyarrow"), require("pyarrow.parquet")
    try:
        if suffixes == {".parquet"}:
            if sum(parquet.read_metadata(file).num_rows for file in files) < LEAST_ROWS:
                return None
            tables = [parquet.ParquetFile(file).read() for file in files]
        else:
            tables = [_mapped(arrow, file) for file in files]
        table = arrow.concat_tables(tables)
        table.validate(full=True)
    except (arrow.ArrowException, OSError):
        return None
    return table


def _mapped(arrow: Any, file: Path) -> Any:
    source = arrow.memory_map(str(file))
    try:
        return arrow.ipc.open_stream(source).read_all()
    except arrow.ArrowInvalid:
        return arrow.ipc.open_file(source).read_all()


def _has_distinct_ids(table: Any, format: str | None) -> bool:
    """Whether no two rows can have the same id: a column of texts or whole numbers says so, or rows are numbered."""
    arrow, compute = require("pyarrow"), require("pyarrow.compute")
    columns = matches(tuple(table.column_names), IDS)
    if not columns:
        return format == "plain"  # the others may number their rows otherwise
    ids = table[columns[0]]
    if _is_text(ids.type):
        ordinary = compute.all(compute.match_substring_regex(ids, _ORDINARY_ID), skip_nulls=False).as_py()
    else:
        ordinary = arrow.types.is_integer(ids.type) and not ids.null_count
    return bool(ordinary) and (_are_counted_up(ids) or compute.count_distinct(ids).as_py() == table.num_rows)


def _are_counted_up(ids: Any) -> bool:
    """Whether each id is longer than the one before or, if as long, later in order, as in "q9", "q10", "q11".

    Then no two are the same, which is found in a tenth of the time that counting them takes.
    """
    compute = require("pyarrow.compute")
    if not _is_text(ids.type):
        return False
    lengths = np.diff(np.asarray(compute.binary_length(ids), dtype=np.int64))
    later = np.asarray(compute.greater(ids.slice(1), ids.slice(0, len(ids) - 1)))
    return bool(np.all((lengths > 0) | ((lengths == 0) & later)))


def _all_have_messages(table: Any) -> bool:
    """Whether the first prompt column is a list of messages, each with a role and a content, in every row."""
    arrow, compute = require("pyarrow"), require("pyarrow.compute")
    names = matches(tuple(table.column_names), PROMPTS)
    if not names or len(set(table.column_names)) < len(table.column_names):
        return False
    column = table[names[0]]
    if not (arrow.types.is_list(column.type) or arrow.types.is_large_list(column.type)) or column.null_count:
        return False
    message = column.type.value_type
    if not arrow.types.is_struct(message):
        return False
    texts = [message.field(name) for name in ("role", "content") if message.get_field_index(name) >= 0]
    if len(texts) < 2 or not all(_is_text(field.type) for field in texts):
        return False
    if not compute.all(compute.greater(compute.list_value_length(column), 0)).as_py():
        return False
    flat = compute.list_flatten(column)
    return not any(compute.struct_field(flat, name).null_count for name in ("role", "content"))


def _ordinary_rows(batch: Any, format: str | None) -> NDArray[np.bool_]:
    """For each row whether its question and answers are ordinary texts, so that it cannot be a bad row."""
    names = tuple(batch.schema.names)
    nothing = np.zeros(batch.num_rows, dtype=np.bool_)
    questions = matches(names, QUESTIONS)
    if format == "plain":
        answers, aliases = matches(names, ANSWERS), matches(names, ALIASES)
    elif format in ("search-r1", "flashrag"):
        answers, aliases = tuple(name for name in names if name == "golden_answers"), ()
        if any(_is_text(batch.schema.field(name).type) for name in ("extra_info", "metadata") if name in names):
            return nothing
    else:
        return nothing
    if not questions or not answers or len(set(names)) < len(names) or not _is_text(batch[questions[0]].type):
        return nothing
    ordinary = _ordinary_texts(batch[questions[0]]) & _ordinary_answers(batch[answers[0]])
    for name in aliases:
        ordinary &= _ordinary_answers(batch[name]) | ~_given(batch[name])
    return ordinary


def _is_text(type: Any) -> bool:
    types = require("pyarrow").types
    return bool(types.is_string(type) or types.is_large_string(type))


def _given(column: Any) -> NDArray[np.bool_]:
    return np.asarray(column.is_valid())


def _ordinary_texts(column: Any) -> NDArray[np.bool_]:
    compute = require("pyarrow.compute")
    return np.asarray(compute.match_substring_regex(column, _ORDINARY_TEXT).fill_null(False))


def _ordinary_answers(column: Any) -> NDArray[np.bool_]:
    """For each cell whether it is an ordinary text, or a list of one or more."""
    types, compute = require("pyarrow").types, require("pyarrow.compute")
    if _is_text(column.type):
        return _ordinary_texts(column)
    is_list = types.is_list(column.type) or types.is_large_list(column.type)
    if not is_list or not _is_text(column.type.value_type):
        return np.zeros(len(column), dtype=np.bool_)
    ordinary = np.array(compute.greater(compute.list_value_length(column), 0).fill_null(False))
    parents = np.asarray(compute.list_parent_indices(column))
    ordinary[parents[~_ordinary_texts(compute.list_flatten(column))]] = False  # nulls hold no answers in either
    return ordinary
