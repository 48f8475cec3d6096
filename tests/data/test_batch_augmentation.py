import numpy as np
import torch

from perceptual.data.augmentation import crop, light, view


def test_a_crop_is_the_square_resized():
    image = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(crop(image, torch.tensor([[1.0, 0.3, 0.6]])), image, atol=1e-5)  # all of it
    # side 0.8 at the very left, a quarter of the way down: pixels 0 … 16 and 1 … 17 of 20, at 20 places each
    got = crop(image, torch.tensor([[1 / 3, 0.0, 0.25]]))[0].numpy()
    places = (np.arange(20) + 0.5) * 0.8 - 0.5

    def along(values, at):
        return np.interp(at, np.arange(20), values)

    rows = np.apply_along_axis(along, 1, image[0].numpy(), places + 1)
    expected = np.apply_along_axis(along, 2, rows, places)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_crops_stay_within_the_image():
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    draws = torch.rand(500, 3, generator=torch.Generator().manual_seed(0))
    widths = torch.stack([(c := crop(ramp, d[None])[0, 0, 0])[-1] - c[0] for d in draws])
    assert 0.68 < widths.min() < 0.75
    assert 0.95 < widths.max() <= 1


def test_light_is_gain_and_gamma_of_each_image():
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    draws = torch.tensor([[0.0, 0.5, 1, 1], [0.5, 0.5, 0.5, 0]])
    gain = np.exp([[-0.25, 0, 0.25], [0, 0, 0]])[:, :, None, None]
    gamma = np.exp([0.35, -0.35])[:, None, None, None]
    expected = np.minimum(images.numpy() ** gamma * gain, 1)
    np.testing.assert_allclose(light(images, draws), expected, atol=1e-6)
    assert torch.equal(light(images, torch.full((1, 4), 0.5)), images)


def test_a_view_depends_on_its_number_alone():
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert view(images, 0) is images
    torch.manual_seed(5)
    first, second = view(images, 1), view(images, 2)
    torch.manual_seed(6)
    assert torch.equal(view(images, 1), first)
    assert not torch.allclose(first, second, atol=0.01)
    # all images alike, however many
    torch.testing.assert_close(view(images[1:2], 2), second[1:2])
    assert 0 <= first.min() <= first.max() <= 1
