"""Files that appear whole or not at all."""

import pytest

from openzaya.core.files import write_whole


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "out", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    write_whole(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"
