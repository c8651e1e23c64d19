"""The image pool: what it returns, how often, and that it resumes exactly."""

import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastgan.recipes.pool import ImagePool
from fastgan.reference import cyclegan


def numbered(first, count=1, **kwargs):
    """Images that carry their number in every pixel."""
    return torch.arange(first, first + count, **kwargs).float().view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()


def numbers(images):
    return images[:, 0, 0, 0].long().tolist()


def test_until_full_it_returns_what_it_is_given():
    pool = ImagePool(6)
    assert numbers(pool.query(numbered(0, 4))) == [0, 1, 2, 3]
    assert numbers(pool.query(numbered(4, 2))) == [4, 5]
    assert numbers(torch.cat(pool.images)) == [0, 1, 2, 3, 4, 5]


def test_afterwards_half_are_returned_and_half_traded_uniformly():
    pool, size, calls = ImagePool(10, seed=0), 10, 4000
    pool.query(numbered(0, size))
    kept, slots = 0, [0] * size
    for number in range(size, size + calls):
        before = numbers(torch.cat(pool.images))
        (returned,) = numbers(pool.query(numbered(number)))
        after = numbers(torch.cat(pool.images))
        if returned == number:
            kept += 1
            assert after == before
        else:
            slot = before.index(returned)
            slots[slot] += 1
            assert after[slot] == number and after[:slot] + after[slot + 1 :] == before[:slot] + before[slot + 1 :]
    assert abs(kept - calls / 2) < 4 * (calls / 4) ** 0.5
    assert all(abs(count - calls / 2 / size) < 5 * (calls / 2 / size) ** 0.5 for count in slots)


def test_size_zero_returns_its_input_without_a_gradient():
    images = torch.ones(2, 3, 4, 4, requires_grad=True) * 1
    result = ImagePool(0).query(images)
    assert torch.equal(result, images) and not result.requires_grad


def test_nothing_it_keeps_shares_memory_or_gradients_with_the_batch():
    pool = ImagePool(2)
    batch = numbered(0, 2).requires_grad_() * 1
    assert not pool.query(batch).requires_grad
    batch.detach().fill_(9)
    assert numbers(torch.cat(pool.images)) == [0, 1]


def test_dtype_and_memory_format_follow_the_query():
    pool = ImagePool(1, seed=1)
    pool.query(numbered(0))
    seen = set()
    for number in range(1, 20):
        images = numbered(number).bfloat16().to(memory_format=torch.channels_last)
        result = pool.query(images)
        assert result.dtype == torch.bfloat16
        seen.update(numbers(result))
    assert 0 in seen


def test_single_images_may_change_size():
    pool = ImagePool(1, seed=1)
    shapes = {pool.query(torch.zeros(1, 3, 4 + 2 * i, 6)).shape[-2] for i in range(20)}
    assert len(shapes) > 5


def test_it_draws_from_its_own_generator_only():
    torch.manual_seed(0)
    pool = ImagePool(3)
    state = torch.get_rng_state()
    for number in range(50):
        pool.query(numbered(number))
    assert torch.equal(torch.get_rng_state(), state)


def test_two_pools_draw_differently_and_a_seed_repeats_them():
    def history():
        torch.manual_seed(4)
        pools = ImagePool(3), ImagePool(3)
        return [[numbers(pool.query(numbered(number)))[0] for number in range(60)] for pool in pools]

    first, second = history()
    assert first != second
    assert history() == [first, second]


@pytest.mark.parametrize("already", [2, 30])
def test_resume_is_exact_through_a_file(already):
    pool = ImagePool(5)
    for number in range(already):
        pool.query(numbered(number))
    file = io.BytesIO()
    torch.save(pool.state_dict(), file)
    file.seek(0)
    other = ImagePool(5)
    other.load_state_dict(torch.load(file, weights_only=True))
    for number in range(already, already + 40):
        assert torch.equal(pool.query(numbered(number)), other.query(numbered(number)))


def test_errors():
    with pytest.raises(ValueError, match="-1 images"):
        ImagePool(-1)
    with pytest.raises(ValueError, match="holds 5 images, this one 3.*pool_size=5"):
        ImagePool(3).load_state_dict(ImagePool(5).state_dict())


@given(
    st.integers(1, 6),
    st.lists(st.integers(1, 5), min_size=1, max_size=12),
    st.booleans(),
    st.booleans(),
    st.integers(0, 100),
)
def test_batches_of_any_length_trade_as_their_images_would_one_by_one(size, counts, ahead, channels_last, seed):
    """Also where a batch's image is traded for an earlier one of the same batch, and with decisions drawn ahead."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    pool, plain = ImagePool(size, seed=seed), cyclegan.ImagePool(size)
    plain.generator.manual_seed(seed)
    drawn = [pool.draw(count) for count in counts] if ahead else [None] * len(counts)
    for count, rows in zip(counts, drawn):
        images = torch.randn(count, 3, 4, 5).to(memory_format=layout)
        result = pool.query(images, rows)
        assert torch.equal(result, plain.query(images)) and result.stride() == images.stride()
    assert all(torch.equal(one, other) for one, other in zip(pool.images, plain.images, strict=True))


def test_rows_are_never_written_and_read_out_of_turn():
    """Every batch writes as many different rows as it has images, none of them in a slot, and there are no more rows
    than slots and images of a batch."""
    pool = ImagePool(4, seed=0)
    for _ in range(100):
        slots = list(pool._slots)
        written, read = pool.draw(3)
        assert len(set(written.tolist())) == 3 and not set(written.tolist()) & set(slots)
        assert set(read.tolist()) <= set(written.tolist()) | set(slots)
    assert pool._rows == 4 + 3


def test_the_buffer_stays_where_it_is():
    """What is recorded in a graph must find it there."""
    pool = ImagePool(3)
    pool.query(numbered(0, 2))
    buffer = pool._buffer
    for number in range(20):
        pool.query(numbered(number, 2))
        pool.query(numbered(number, 1))
    assert pool._buffer is buffer


def test_images_of_another_size_come_one_by_one():
    pool = ImagePool(2)
    pool.query(torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"one by one, got 2 of \(3, 6, 4\); use a batch of 1"):
        pool.query(torch.zeros(2, 3, 6, 4))
