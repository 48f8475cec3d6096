"""Train a small autoencoder on photographs twice, by L1 and by L1 + LPIPS, and see the difference.

    python examples/autoencoder.py --steps 300 -o autoencoder.png

Rows of the picture: patches of photographs that were not trained on, their reconstructions by L1, by both.
"""

import argparse

import skimage.data
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import to_tensor
from torchvision.utils import save_image

from perceptual import LPIPS

SIDE = 64
TRAINED_ON = ("astronaut", "coffee", "rocket")
SHOWN = "chelsea"


def patches(photo: str, count: int) -> Tensor:
    """Patches of a photograph at random places, (N, 3, 64, 64) in [0, 1]."""
    image = to_tensor(getattr(skimage.data, photo)())
    tops = torch.randint(image.shape[1] - SIDE, (count,))
    lefts = torch.randint(image.shape[2] - SIDE, (count,))
    return torch.stack(
        [image[:, t : t + SIDE, left : left + SIDE] for t, left in zip(tops, lefts, strict=True)]
    )


def autoencoder(width: int = 16, code: int = 12) -> nn.Sequential:
    """64×64×3 → 8×8×code → 64×64×3."""

    def down(i: int, o: int) -> list[nn.Module]:
        return [nn.Conv2d(i, o, 4, stride=2, padding=1), nn.SiLU()]

    def up(i: int, o: int) -> list[nn.Module]:
        return [nn.Upsample(scale_factor=2), nn.Conv2d(i, o, 3, padding=1), nn.SiLU()]

    return nn.Sequential(
        *down(3, width),
        *down(width, 2 * width),
        *down(2 * width, 4 * width),
        nn.Conv2d(4 * width, code, 1),
        *up(code, 4 * width),
        *up(4 * width, 2 * width),
        *up(2 * width, width),
        nn.Conv2d(width, 3, 3, padding=1),
        nn.Sigmoid(),
    )


def train(metric: LPIPS | None, steps: int, batch_size: int = 8, weight: float = 1.0) -> nn.Module:
    """An autoencoder trained by L1, and by `weight` times the distance as well if there is one."""
    torch.manual_seed(0)
    data = torch.cat([patches(photo, 400) for photo in TRAINED_ON])
    model = autoencoder()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(steps):
        x = data[torch.randint(len(data), (batch_size,))]
        y = model(x)
        loss = (y - x).abs().mean()
        if metric is not None:
            loss = loss + weight * metric(y, x).mean()  # (N,) distances; gradients flow to the images only
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def main() -> dict[str, tuple[float, float]]:
    """Run it; returns (L1, distance) of the held-out patches by what was trained with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("-o", "--output", default="autoencoder.png")
    arguments = parser.parse_args()

    metric = LPIPS("tf_efficientnet_lite0", lin=None)
    torch.manual_seed(1)
    x = patches(SHOWN, 8)
    rows, scores = [x], {}
    for name, distance in {"L1": None, "L1 + LPIPS": metric}.items():
        with torch.enable_grad():
            model = train(distance, arguments.steps)
        y = model(x)
        rows.append(y)
        scores[name] = ((y - x).abs().mean().item(), metric(y, x).mean().item())
        print(f"{name:<10}  held out: L1 {scores[name][0]:.4f}, LPIPS {scores[name][1]:.3f}")
    save_image(torch.cat(rows), arguments.output, nrow=len(x))
    print(arguments.output)
    return scores


if __name__ == "__main__":
    main()
