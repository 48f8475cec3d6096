import pytest
import torch
from torch import nn

from perceptual.features.backbone import Backbone
from perceptual.features.kmeans import initialize


class Small(nn.Module):
    """Two convolutions, the second in groups."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 6, 3, groups=2)

    def forward(self, images):
        first = self.first(images)
        return [first, self.second(first.relu())]


def photographs(count=24, seed=0):
    """Smooth images, whose patches are far from white."""
    noise = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(noise, (48, 48), mode="bicubic").clamp(0, 1)


@torch.no_grad()
def test_each_output_has_mean_0_and_variance_1_on_the_images():
    backbone, images = Backbone.of(Small()), photographs()
    initialize(backbone, images)
    for m in backbone(images):
        values = m.double().transpose(0, 1).flatten(1)
        torch.testing.assert_close(values.mean(1), torch.zeros(len(values)).double(), atol=1e-4, rtol=0)
        torch.testing.assert_close(values.var(1), torch.ones(len(values)).double(), atol=1e-3, rtol=0)
    assert backbone.source == "kmeans (24 images, seed 0)"


@torch.no_grad()
def test_filters_are_the_clusters_of_the_patches():
    """Images of two kinds of patches, plain red and plain blue: the filters tell them apart."""
    images = torch.zeros(40, 3, 12, 12)
    images[:20, 0] = 1
    images[20:, 2] = 1
    images = (images + 0.01 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(
        0, 1
    )
    network = nn.Sequential(nn.Conv2d(3, 2, 1))
    network.forward = lambda x: [network[0](x)]
    initialize(Backbone.of(network), images)
    (answers,) = network(images)
    red, blue = answers[:20].mean((0, 2, 3)), answers[20:].mean((0, 2, 3))
    assert ((red - blue).abs() > 1.5).all()  # two sides of every filter, of variance 1


@torch.no_grad()
def test_the_same_seed_gives_the_same_weights_and_another_others():
    prints = []
    for before, seed in ((0, 0), (1, 0), (0, 1)):
        torch.manual_seed(before)
        backbone = Backbone.of(Small())
        initialize(backbone, photographs(8), seed)
        prints.append(backbone.fingerprint())
    assert prints[0] == prints[1] != prints[2]


@torch.no_grad()
def test_batch_normalisation_has_the_statistics_of_the_images():
    torch.manual_seed(0)
    backbone, images = Backbone("test_resnet", None), photographs()
    initialize(backbone, images)
    norm, seen = backbone.net.bn1, []
    norm.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    backbone(images)
    torch.testing.assert_close(seen[0][0].mean((0, 2, 3)), norm.running_mean, atol=1e-4, rtol=1e-3)


def test_a_transformer_and_too_few_images_are_refused():
    with pytest.raises(ValueError, match=r"is for networks of convolutions; test_vit has .*Linear"):
        initialize(Backbone("test_vit", None), photographs())
    with pytest.raises(
        ValueError, match="layer 1 of Small has 3 filters, and the images only 1 patches: give more"
    ):
        initialize(Backbone.of(Small()), photographs(1)[:, :, :5, :5])
