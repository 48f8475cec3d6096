"""Ranges that severities are drawn from in design `paper`, for each family.

At the lower end the mean LPIPS distance (AlexNet, v0.1, calibrated on people's judgments) of patches is .02,
at the upper end .35, or the family's strongest where it does not reach that; measured by `python -m
benchmarks.severity`, which prints this table.
"""

RANGES: dict[str, tuple[float, float]] = {
    "lightness": (0.31, 1.0),
    "color_shift": (0.09, 0.94),
    "contrast": (0.3, 1.0),
    "saturation": (0.34, 1.0),
    "uniform_noise": (0.07, 0.49),
    "white_noise": (0.07, 0.49),
    "pink_noise": (0.05, 0.44),
    "blue_noise": (0.1, 0.57),
    "colored_noise": (0.06, 0.5),
    "checkerboard": (0.13, 1.0),
    "gaussian_blur": (0.14, 0.57),
    "bilateral_blur": (0.23, 1.0),
    "shift": (0.1, 1.0),
    "affine": (0.15, 1.0),
    "homography": (0.18, 1.0),
    "linear_warp": (0.23, 1.0),
    "cubic_warp": (0.18, 1.0),
    "ghosting": (0.4, 1.0),
    "chromatic_aberration": (0.11, 1.0),
    "jpeg": (0.19, 1.0),
}
