"""Small colour profiles, written by the definition of ICC.1."""

import struct

import numpy as np

D65 = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
BRADFORD = np.array([[1.0479, 0.0229, -0.0502], [0.0296, 0.9904, -0.0171], [-0.0092, 0.0151, 0.7517]])
D50 = struct.pack(">3i", 63190, 65536, 54061)
WHITE = b"XYZ \0\0\0\0" + D50


def profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A profile of a colour space, `b"RGB "`, `b"GRAY"` or `b"CMYK"`, with tags."""
    offset, table, body = 132 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    device, connection = (b"prtr", b"Lab ") if space == b"CMYK" else (b"mntr", b"XYZ ")
    header = struct.pack(">I4x4s4s4s4s", offset + len(body), b"\2\x10\0\0", device, space, connection)
    header += bytes(12) + b"acsp" + bytes(28) + D50 + bytes(48)
    return header + struct.pack(">I", len(tags)) + table + body


def gamma(exponent: float) -> bytes:
    """A tone curve."""
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(exponent * 256))


def to_xyz(primaries: list[tuple[float, float]]) -> np.ndarray:
    """From linear RGB of some chromaticities and white D65 to XYZ, (3, 3)."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    return columns * np.linalg.solve(columns, D65)


def display(primaries: list[tuple[float, float]], exponent: float, padding: int = 0) -> bytes:
    """A profile of a display with so many bytes more."""
    tags = {b"wtpt": WHITE}
    for name, column in zip("rgb", (BRADFORD @ to_xyz(primaries)).T, strict=True):
        fixed = struct.pack(">3i", *(round(value * 65536) for value in column))
        tags |= {f"{name}XYZ".encode(): b"XYZ \0\0\0\0" + fixed, f"{name}TRC".encode(): gamma(exponent)}
    return profile(b"RGB ", tags | ({b"pad ": b"data\0\0\0\0" + bytes(padding)} if padding else {}))
