import numpy as np
import pytest
import torch

from openzaya.engine.cuda.graphs import Graphs, InputBuffer, bucket_of


def test_buckets_hold_the_rows_and_waste_little() -> None:
    found = [bucket_of(rows, 65) for rows in (1, 2, 3, 5, 9, 16, 17, 33, 64, 65)]
    assert found == [1, 2, 4, 8, 16, 16, 32, 48, 64, 65]


def test_inputs_lie_where_they_were_and_unused_rows_are_marked() -> None:
    buffer = InputBuffer(9, torch.device("cpu"))
    view = buffer.view(4)
    places = [x.data_ptr() for x in (view.ids_B, view.slot_B, view.position_B)]
    first, second = np.array([7, 8, 9], dtype=np.int32), np.array([5], dtype=np.int32)
    buffer.fill(4, first, first + 10, first + 20)
    buffer.fill(4, second, second + 10, second + 20)
    assert view.ids_B.tolist() == [5, 0, 0, 0]
    assert view.slot_B.tolist() == [15, -1, -1, -1]
    assert view.position_B.tolist() == [25, 0, 0, 0]
    again = buffer.view(4)
    assert places == [x.data_ptr() for x in (again.ids_B, again.slot_B, again.position_B)]


def test_without_a_device_a_step_is_simply_called() -> None:
    graphs = Graphs(torch.device("cpu"))
    calls: list[int] = []
    assert not graphs.lacks((1,))
    graphs.run((1,), lambda: calls.append(1))
    assert calls == [1]
    assert len(graphs) == 0


@pytest.mark.gpu
def test_a_captured_step_reads_its_inputs_at_every_replay() -> None:
    x, y = torch.zeros(4, device="cuda"), torch.zeros(4, device="cuda")
    graphs = Graphs(torch.device("cuda"))

    def step() -> None:
        torch.add(x, 1, out=y)

    assert graphs.lacks((4,))
    graphs.prepare((4,), step)
    assert not graphs.lacks((4,))
    for value in (3.0, 5.0):
        x.fill_(value)
        graphs.run((4,), step)
        assert y.tolist() == [value + 1] * 4
