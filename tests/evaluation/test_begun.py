import numpy as np
import pytest
import torch
from judged import make_table

from perceptual.data import JND, JudgedDataset
from perceptual.data.loading import Batches
from perceptual.evaluation.begun import Begun
from perceptual.evaluation.scoring import measure


def l2(x, y):
    return (x - y).square().mean((1, 2, 3))


def pairs(count=10):
    pixels = torch.randint(0, 256, (2 * count, 3, 16, 16), dtype=torch.uint8)
    rows = np.arange(count)
    table = make_table(
        JND,
        images=pixels,
        p0=rows,
        p1=rows + count,
        same=np.zeros(count, np.float32),
        subset=np.zeros(count, np.int64),
        subsets=["all"],
    )
    return JudgedDataset(table.open(16))


def test_what_was_computed_before_ctrl_c_is_not_computed_again(tmp_path):
    data, calls = pairs(), []

    def stopping(x, y):
        calls.append(len(x))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return l2(x, y)

    begun = Begun(tmp_path, "items")
    with pytest.raises(KeyboardInterrupt):
        measure({"it": stopping}, Batches(data, 3), begun)
    assert np.isnan(begun.read("it", 10)).sum() == 4
    again = measure({"it": stopping}, Batches(data, 3), begun)["it"]
    assert calls == [3, 3, 3, 3, 1]
    whole = measure({"it": l2}, Batches(data, 3))["it"]
    np.testing.assert_array_equal(again.columns[0], whole.columns[0])
    # a method that was not begun has all items, one that was only those that it lacks
    calls.clear()
    both = measure({"it": stopping, "other": l2}, Batches(data, 3), begun)
    np.testing.assert_array_equal(both["other"].columns[0], whole.columns[0])
    begun.forget("it")
    assert begun.read("it", 10) is None


def test_what_does_not_fit_is_not_read(tmp_path):
    begun = Begun(tmp_path, "items")
    begun.keep({"it": np.zeros((1, 4), np.float32)}, now=True)
    assert begun.read("it", 5) is None
    next(tmp_path.glob("begun/it/*.npz")).write_bytes(b"no array")
    assert begun.read("it", 4) is None


def test_a_flipped_bit_is_noticed(tmp_path):
    begun = Begun(tmp_path, "items")
    begun.keep({"it": np.ones((1, 400), np.float32)}, now=True)
    path = next(tmp_path.glob("begun/it/*.npz"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 2
    path.write_bytes(content)
    assert begun.read("it", 400) is None
