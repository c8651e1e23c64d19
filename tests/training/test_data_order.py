"""The order of the data."""

from hypothesis import given
from hypothesis import strategies as st

from fastgan.training.data_order import BatchKeys, epoch_order
from fastgan.training.loop import total_steps


@given(st.integers(1, 30), st.integers(1, 7), st.integers(0, 2**63), st.integers(0, 3), st.booleans())
def test_every_item_once_per_epoch(length, batch_size, seed, epochs, shuffle):
    batches = list(BatchKeys(length, batch_size, seed, shuffle=shuffle, epochs=epochs))
    assert len(batches) == total_steps(epochs, length, batch_size, None)
    keys = [key for batch in batches for key in batch]
    assert sorted(keys) == [(epoch, index) for epoch in range(epochs) for index in range(length)]
    assert all(len({epoch for epoch, _ in batch}) == 1 for batch in batches)


@given(st.integers(1, 30), st.integers(1, 7), st.integers(0, 100), st.data())
def test_any_position_goes_on_as_before(length, batch_size, seed, data):
    whole = list(BatchKeys(length, batch_size, seed, epochs=3))
    epoch = data.draw(st.integers(0, 2))
    per_epoch = total_steps(1, length, batch_size, None)
    done = data.draw(st.integers(0, per_epoch - 1))
    rest = list(BatchKeys(length, batch_size, seed, epochs=3, epoch=epoch, position=done * batch_size))
    assert rest == whole[epoch * per_epoch + done :]


def test_orders_differ():
    orders = {tuple(epoch_order(20, seed, epoch, True)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25
    assert epoch_order(4, 9, 9, False) == [0, 1, 2, 3]


def test_total_steps():
    assert total_steps(3, 5, 2, None) == 9
    assert total_steps(3, 5, 2, 4) == 4
    assert total_steps(3, 5, 2, 99) == 9
    assert total_steps(None, 5, 2, 7) == 7
    assert total_steps(None, 5, 2, None) is None


def test_an_epoch_may_leave_out_what_fills_no_batch():
    batches = list(BatchKeys(5, 2, seed=1, epochs=2, drop_last=True))
    assert [len(batch) for batch in batches] == [2, 2, 2, 2]
    assert batches == [batch for batch in BatchKeys(5, 2, seed=1, epochs=2) if len(batch) == 2]
    assert list(BatchKeys(5, 2, seed=1, epochs=2, drop_last=True, position=2))[:1] == batches[1:2]
