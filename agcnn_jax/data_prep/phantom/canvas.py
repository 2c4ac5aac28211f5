"""Antialiased drawing of shapes in film units onto a pixel grid."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import cv2
import numpy as np

Array = np.ndarray
SUBPIXEL_BITS = 4


class Canvas:
    """A square pixel grid and the pose of the patient on it.

    Outlines are given in film units: (0, 0) is the upper left corner and (1, 1) the lower right one
    of a film on which the patient is upright and centred. `pose` maps them to the actual film.

    Attributes:
        size: pixels a side.
        x: float32 [size, size], x of each pixel in film units before the pose.
        y: float32 [size, size], y of each pixel in film units before the pose.
    """

    def __init__(self, size: int, pose: Array | None = None) -> None:
        """Set `pose`, float [2, 3], an affine map from film units to film units."""
        self.size = size
        self.pose = np.eye(2, 3) if pose is None else np.asarray(pose, float)
        across, down = _grid(size)
        inverse = np.linalg.inv(self.pose[:, :2])
        shift = -inverse @ self.pose[:, 2]
        (a, b), (c, d) = inverse.astype(np.float32)
        self.x = a * across + b * down + np.float32(shift[0])
        self.y = c * across + d * down + np.float32(shift[1])

    def pixels(self, points: Array) -> Array:
        """Convert film units, float [N, 2], to OpenCV's fixed-point pixels, int32 [N, 2]."""
        placed = points @ self.pose[:, :2].T + self.pose[:, 2]
        return np.round((placed * self.size - 0.5) * (1 << SUBPIXEL_BITS)).astype(np.int32)

    def fill(self, outline: Array, soften: float = 0.0) -> Array:
        """Fill a closed outline on a new layer, float32 [size, size] in 0..1, then blur it."""
        layer = np.zeros((self.size, self.size), np.uint8)
        cv2.fillPoly(layer, [self.pixels(outline)], 255, cv2.LINE_AA, SUBPIXEL_BITS)
        return self.blur(layer.astype(np.float32) / 255, soften)

    def stroke(self, layer: Array, paths: Sequence[Array], width: float, level: float) -> None:
        """Draw open paths of one `width` (film units) and `level` (0..1) into a uint8 layer.

        A line thinner than a pixel is drawn one pixel wide and fainter, so that a film of 128
        pixels looks like one of 1024 pixels after shrinking.
        """
        exact = width * self.size
        thickness = max(1, round(exact))
        value = 255 * level * min(1.0, exact / thickness)
        # One transform for all paths, since a film has hundreds of them.
        pixels, points = self.pixels(np.concatenate(paths)), []
        for path in paths:
            points.append(pixels[: len(path)])
            pixels = pixels[len(path) :]
        cv2.polylines(layer, points, False, value, thickness, cv2.LINE_AA, SUBPIXEL_BITS)

    def strokes(
        self, paths: Sequence[Array], width: float, level: float = 1.0, soften: float = 0.0
    ) -> Array:
        """Draw open paths of one width on a new layer, float32 [size, size] in 0..1."""
        layer = self.blank()
        self.stroke(layer, paths, width, level)
        return self.blur(layer.astype(np.float32) / 255, soften)

    def blank(self) -> Array:
        """Return an empty layer, uint8 [size, size]."""
        return np.zeros((self.size, self.size), np.uint8)

    def blur(self, layer: Array, sigma: float) -> Array:
        """Blur with a Gaussian of `sigma` film units; a wide blur is computed on a smaller grid."""
        sigma *= self.size
        if sigma < 0.3:
            return layer
        if sigma < 2.5:
            return cv2.GaussianBlur(layer, (0, 0), sigma)
        few = max(8, int(self.size * 1.3 / sigma))
        small = cv2.resize(layer, (few, few), interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (0, 0), 1.2)
        return cv2.resize(small, (self.size, self.size), interpolation=cv2.INTER_CUBIC)

    def ellipse(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        turn: float = 0.0,
        edge: tuple[float, float] = (1.1, 0.5),
        warp: Array | None = None,
    ) -> Array:
        """Return a soft-edged ellipse, float32 [size, size] in 0..1.

        Args:
            x: x of the centre.
            y: y of the centre.
            rx: radius along the axis that is rotated by `turn`.
            ry: radius along the other axis.
            turn: rotation in radians.
            edge: squared elliptic radii at which the value is 0 and 1.
            warp: factor of the squared radius, float32 [size, size], for an irregular border.
        """
        return self._near(x, y, rx, ry, turn, 1.6 * edge[0], lambda r: smoothstep(r, *edge), warp)

    def gaussian(self, x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> Array:
        """Return a Gaussian with peak 1 and deviations `rx` and `ry`, float32 [size, size]."""
        return self._near(x, y, rx, ry, turn, 9.0, lambda r: np.exp(np.float32(-0.5) * r), None)

    def _near(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        turn: float,
        reach: float,
        shape: Callable[[Array], Array],
        warp: Array | None,
    ) -> Array:
        """Return `shape` of the squared elliptic radius where that is below `reach`, else 0."""
        layer = np.zeros((self.size, self.size), np.float32)
        centre = self.pose[:, :2] @ (x, y) + self.pose[:, 2]
        far = max(rx, ry) * np.sqrt(reach) * 1.25 + 1 / self.size
        first = np.clip(((centre - far) * self.size).astype(int), 0, self.size)
        last = np.clip(((centre + far) * self.size).astype(int) + 1, 0, self.size)
        window = (slice(first[1], last[1]), slice(first[0], last[0]))
        across, down = self.x[window] - np.float32(x), self.y[window] - np.float32(y)
        cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        radius = np.square((cos * across + sin * down) * np.float32(1 / rx))
        radius += np.square((cos * down - sin * across) * np.float32(1 / ry))
        if warp is not None:
            radius *= warp[window]
        layer[window] = shape(radius)
        return layer

    def texture(self, rng: np.random.Generator, grain: float) -> Array:
        """Return smooth Gaussian noise, float32 [size, size], correlated over about `grain`."""
        few = max(4, round(1 / grain))
        field = rng.standard_normal((few, few), dtype=np.float32)
        return cv2.resize(field, (self.size, self.size), interpolation=cv2.INTER_CUBIC)


@functools.lru_cache(maxsize=8)
def _grid(size: int) -> tuple[Array, Array]:
    """Return x and y of the pixel centres in film units, two float32 [size, size]."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    return np.meshgrid(line, line)


def spline(points: Array, steps: int = 6, closed: bool = True) -> Array:
    """Return a Catmull-Rom spline through `points`, float [N, 2], with `steps` points a span."""
    points = np.asarray(points, float)
    if closed:
        around = np.concatenate([points[-1:], points, points[:2]])
    else:
        around = np.concatenate([points[:1], points, points[-1:]])
    t = np.arange(steps)[:, None, None] / steps
    p0, p1, p2, p3 = around[:-3], around[1:-2], around[2:-1], around[3:]
    curve = 0.5 * (
        2 * p1
        + (p2 - p0) * t
        + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
        + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )
    flat = curve.transpose(1, 0, 2).reshape(-1, 2)
    return flat if closed else np.concatenate([flat, points[-1:]])


def smoothstep(values: Array, start: float, end: float) -> Array:
    """Return a smooth step from 0 at `start` to 1 at `end`; `end` may be less than `start`."""
    scale = np.float32(1 / (end - start))
    t = np.multiply(values, scale)
    t -= np.float32(start) * scale
    np.clip(t, 0, 1, out=t)
    smooth = t * t
    t *= -2
    t += 3
    smooth *= t
    return smooth
