"""The generator's length, receptive field and shortest input are what it says they are."""

import pytest
import torch

from audiotok.errors import InputError
from audiotok.nn.hifigan import HifiGanGenerator

SHAPES = {
    "published": {},
    "resblock 2": {"resblock_type": 2, "resblock_kernels": (3, 5), "resblock_dilations": ((1, 3), (1, 3))},
    "wide kernels": {"upsample_factors": (2, 3), "upsample_kernels": (8, 9), "resblock_kernels": (3, 7, 11)},
    "no kernel overlap": {"upsample_factors": (4, 4), "upsample_kernels": (4, 4)},
    "one stage": {
        "upsample_factors": (5,),
        "upsample_kernels": (11,),
        "resblock_kernels": (3,),
        "resblock_dilations": ((1,),),
        "first_kernel": 1,
        "last_kernel": 1,
    },
}


def generator(name):
    torch.manual_seed(0)
    return HifiGanGenerator(3, initial_channels=32, **SHAPES[name]).double()


@pytest.mark.parametrize("name", SHAPES)
def test_context_frames_is_the_receptive_field_no_more_no_less(name):
    model, frames = generator(name), 121
    features = torch.randn(1, 3, frames, dtype=torch.float64, requires_grad=True)
    middle, hop = frames // 2, model.hop_length
    wav = model(features)
    assert wav.shape == (1, 1, frames * hop)
    wav[..., middle * hop : (middle + 1) * hop].abs().sum().backward()
    touched = features.grad.abs().sum((0, 1)).nonzero().flatten()
    reach = max(middle - int(touched.min()), int(touched.max()) - middle)
    assert reach == model.context_frames


@pytest.mark.parametrize("name", SHAPES)
def test_min_frames_is_the_shortest_input(name):
    model = generator(name)
    assert (
        model(torch.zeros(1, 3, model.min_frames, dtype=torch.float64)).shape[2] == model.min_frames * model.hop_length
    )
    if model.min_frames > 1:
        with pytest.raises(RuntimeError, match="[Pp]adding"):
            model(torch.zeros(1, 3, model.min_frames - 1, dtype=torch.float64))


def test_the_published_shape_needs_21_frames_on_each_side():
    model = generator("published")
    assert (model.hop_length, model.min_frames) == (320, 6)
    assert model.context_frames == 21


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"upsample_factors": (4,), "upsample_kernels": (7,)}, "exceed its factor by 0, 2, 4"),
        ({"upsample_factors": (4,), "upsample_kernels": (2,)}, "exceed its factor by 0, 2, 4"),
        ({"upsample_factors": (4,), "upsample_kernels": (8, 8)}, "a factor and a kernel"),
        ({"resblock_kernels": (3,)}, "needs dilations"),
        ({"resblock_kernels": (3, 7, 10)}, "must be odd, not 10"),
        ({"resblock_dilations": ((1,), (1,), ())}, "dilations must be"),
        ({"resblock_type": 3}, "resblock_type must be 1 or 2, not 3"),
        ({"initial_channels": 16}, "16 channels cannot be halved 5 times"),
    ],
)
def test_values_that_make_no_network_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        HifiGanGenerator(**{"in_channels": 3, "initial_channels": 64, **options})


def test_padding_is_by_reflection_and_slopes_are_as_published():
    """A second implementation, written out with explicit padding, of a generator with one stage."""
    torch.manual_seed(1)
    model = HifiGanGenerator(
        2,
        initial_channels=4,
        upsample_factors=(3,),
        upsample_kernels=(7,),
        resblock_kernels=(3, 5),
        resblock_dilations=((1, 2), (3, 1)),
    ).double()
    features = torch.randn(1, 2, 12, dtype=torch.float64)

    def reflect(x, conv):
        pad = conv.dilation[0] * (conv.kernel_size[0] // 2)
        order = [abs(i) if i < x.shape[2] else 2 * (x.shape[2] - 1) - i for i in range(-pad, x.shape[2] + pad)]
        return torch.nn.functional.conv1d(x[..., order], conv.weight, conv.bias, dilation=conv.dilation)

    def leaky(x, slope):
        return torch.where(x < 0, slope * x, x)

    x = reflect(features, model.conv_pre)
    up = model.ups[0]
    x = torch.nn.functional.conv_transpose1d(leaky(x, 0.1), up.weight, up.bias, stride=3)[..., 2:-2]
    total = 0
    for block in model.resblocks:
        y = x
        for first, second in zip(block.convs1, block.convs2, strict=True):
            y = y + reflect(leaky(reflect(leaky(y, 0.1), first), 0.1), second)
        total = total + y
    expected = torch.tanh(reflect(leaky(total / 2, 0.01), model.conv_post))
    torch.testing.assert_close(model(features), expected, rtol=1e-12, atol=1e-12)
