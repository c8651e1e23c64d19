import dataclasses

import pytest

from fastgan.data import DataOptions


def test_defaults_are_the_published_ones():
    options = DataOptions()
    assert (options.load_size, options.crop_size, options.preprocess) == (286, 256, "resize_and_crop")
    assert (options.batch_size, options.direction, options.max_dataset_size) == (1, "AtoB", None)
    assert options.flip and not options.serial_batches
    assert options.pair_channels == (3, 3)


def test_every_option_has_a_help_text():
    assert all(field.metadata["help"] for field in dataclasses.fields(DataOptions))


@pytest.mark.parametrize(
    "values, said",
    [
        ({"preprocess": "squash"}, "--preprocess is 'squash': choose from resize_and_crop, crop"),
        ({"direction": "AtoC"}, "--direction is 'AtoC': choose from AtoB, BtoA"),
        ({"load_size": 0}, "--load-size is 0: it must be 1 or more"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"num_threads": -1}, "--num-threads is -1: it must be 0 or more"),
        ({"max_dataset_size": 0}, "--max-dataset-size is 0"),
        ({"input_nc": 0}, "--input-nc is 0: it must be 1 or more"),
        ({"image_size": 0}, "--image-size is 0: it must be 1 or more"),
        ({"n_labels": 0}, "--n-labels is 0: it must be 1 or more"),
        ({"range": (5, 5)}, "--range is 5 5: give the numbers that become black and white, the lower one first"),
        ({"range": (float("nan"), 5)}, "--range is nan 5"),
        ({"load_size": 128}, "--crop-size 256 is larger than --load-size 128"),
        ({"load_size": 128, "preprocess": "scale_width_and_crop"}, "give a --load-size at least as large"),
    ],
)
def test_bad_values_are_errors(values, said):
    with pytest.raises(ValueError, match="^--") as caught:
        DataOptions(**values)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_crop_without_a_resize_may_be_larger_than_load_size():
    DataOptions(load_size=64, crop_size=128, preprocess="crop")
