"""Tables in Arrow's own format, a little at a time, checked before anything in them is read."""

import importlib
from collections.abc import Collection, Iterator
from typing import IO, Any

_ROWS = 256


def arrow_batches(stream: IO[bytes], fields: Collection[str] = ()) -> Iterator[Any]:
    """Go through a file of Arrow's (as Feather is) or a stream of it (as `datasets` writes it).

    Of a table that has any of these `fields`, no other column is kept. Raises pyarrow's errors.
    """
    ipc: Any = importlib.import_module("pyarrow.ipc")
    is_file = stream.read(6) == b"ARROW1"
    stream.seek(0)
    if is_file:
        file = ipc.open_file(stream)
        batches = map(file.get_batch, range(file.num_record_batches))
    else:
        batches = ipc.open_stream(stream)
    for whole in batches:  # which may be the whole table
        known = [i for i, name in enumerate(whole.schema.names) if name in fields]
        batch = whole.select(known) if known else whole
        for start in range(0, batch.num_rows, _ROWS):
            part = batch.slice(start, _ROWS)
            _check(part)
            yield part


def _check(batch: Any) -> None:
    """Refuse what would be read beyond the memory's end; the format has no checksums.

    Bytes of no text are let through: they cost their row alone.
    """
    try:
        batch.validate(full=True)
    except ValueError as error:
        if "UTF8" not in str(error):
            raise
