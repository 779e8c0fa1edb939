"""Names of devices."""
import pytest

from common.errors import UserError
from engines.devices import select_devices


@pytest.mark.parametrize("options, expected", [
    (dict(available=0), ["cpu"]),
    (dict(available=2), ["gpu:0"]),
    (dict(gpus="", available=2), ["cpu"]),
    (dict(gpus="1,0", available=2), ["gpu:1", "gpu:0"]),
    (dict(num_gpus=2, available=2), ["gpu:0", "gpu:1"]),
    (dict(num_gpus=0, available=2), ["cpu"]),
])
def test_devices(options, expected):
    assert list(select_devices(**options)) == expected


@pytest.mark.parametrize("options, message", [
    (dict(gpus="3", available=1), "GPU 3 was asked for, but MXNet finds 1 GPU here"),
    (dict(num_gpus=1, available=0), "GPU 0 was asked for, but MXNet finds no GPUs here"),
    (dict(gpus="a", available=1), "--gpus takes device numbers"),
    (dict(gpus="0,0", available=1), "must name different devices"),
    (dict(gpus="-1", available=1), "must name different devices"),
    (dict(gpus="0", num_gpus=1, available=1), "either --gpus or --num-gpus"),
])
def test_errors(options, message):
    with pytest.raises(UserError, match=message):
        select_devices(**options)
