"""Optimise an image towards another by what people would see, and draw how it goes.

    python examples/optimize_image.py --steps 300 -o progress.png

The picture shows the image after 0, 1/4, 1/2, 3/4 and all of the steps, and the target on the right.
"""

import argparse

import skimage.data
import torch
from torch import Tensor
from torchvision.transforms.functional import center_crop, gaussian_blur, resize, to_tensor
from torchvision.utils import save_image

from perceptual import LPIPS


def optimize(metric: LPIPS, start: Tensor, target: Tensor, steps: int) -> tuple[list[Tensor], list[float]]:
    """Five images (1, 3, H, W) on the way from `start` to `target`, and the distance before each step."""
    distance_to_target = metric.reference(target)  # the features of the target are computed once
    image = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([image], lr=0.02)
    shown, distances = [start], []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        distance = distance_to_target(image).sum()
        distance.backward()
        optimizer.step()
        with torch.no_grad():
            image.clamp_(0, 1)
        distances.append(distance.item())
        if step in {steps * quarter // 4 for quarter in (1, 2, 3, 4)}:
            shown.append(image.detach().clone())
    return shown, distances


def main() -> list[float]:
    """Run it; returns the distance before each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--size", type=int, default=128, help="side of the images")
    parser.add_argument("-o", "--output", default="progress.png")
    arguments = parser.parse_args()

    photo = to_tensor(skimage.data.astronaut()).unsqueeze(0)
    target = resize(center_crop(photo, [400, 400]), [arguments.size] * 2, antialias=True)
    torch.manual_seed(0)
    start = (gaussian_blur(target, 31, 6) + 0.1 * torch.randn_like(target)).clamp(0, 1)

    # weights that come with the installation; LPIPS("vgg16") is the usual choice where it can be had
    metric = LPIPS("tf_efficientnet_lite0", lin=None)
    images, distances = optimize(metric, start, target, arguments.steps)
    save_image(torch.cat([*images, target]), arguments.output, nrow=6)
    print(f"distance {distances[0]:.3f} → {distances[-1]:.3f} in {arguments.steps} steps, {arguments.output}")
    return distances


if __name__ == "__main__":
    main()
