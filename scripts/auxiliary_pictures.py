"""Normal pictures for training: procedural textures and objects, and photographs inside Python wheels.

Every function takes a generator and a side in pixels and returns RGB uint8 (S, S, 3); objects return their outline too.
Drawn: ten families of textures, three of objects (one, several, a circuit board). Photographs: scikit-image (only those
whose docstring states CC0, public domain or no known copyright), scikit-learn (CC BY 2.0), textiles of
``conformal-clip-data`` (MIT).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage, spatial

from zsad.synthetic.shapes import smooth_noise

Array: TypeAlias = np.ndarray[Any, Any]
Rng: TypeAlias = np.random.Generator

# all of them CC0, public domain or "no known copyright restrictions" by skimage.data's docstrings; left out: moon, motorcycle
# and lfw_subset (no such statement) and the portrait
PHOTOGRAPHS = ("brick", "camera", "cell", "chelsea", "clock", "coffee", "coins", "grass", "gravel", "hubble_deep_field",
               "immunohistochemistry", "retina", "rocket", "text")  # fmt: skip


# ------------------------------------------------------------------ helpers
def _unit(field: Array) -> Array:
    """Any field -> 0 to 1 by its 1 % and 99 % quantiles."""
    low, high = np.quantile(field, (0.01, 0.99))
    return np.asarray(np.clip((field - low) / (high - low + 1e-6), 0, 1), np.float32)


def _tones(rng: Rng, field: Array, contrast: float | None = None) -> Array:
    """A field in [0, 1] -> RGB between two colours (grey in a third of the cases), (S, S, 3) float."""
    first = rng.uniform(20, 235, 3)
    apart = rng.normal(0, 1, 3) * 0.4 + rng.choice((-1.0, 1.0))
    second = first + apart * (contrast or rng.uniform(15, 140))
    if rng.random() < 0.35:
        first, second = np.full(3, first.mean()), np.full(3, second.mean())
    return np.asarray(first + (second - first) * field[..., None])


def _axes(rng: Rng, side: int, turn: float | None = None) -> tuple[Array, Array]:
    """Coordinates in pixels, turned by a random angle (often by next to nothing)."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    angle = rng.choice((0, np.pi / 2, rng.uniform(0, np.pi))) + rng.normal(0, 0.02) if turn is None else turn
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def camera(rng: Rng, picture: Array) -> Array:
    """Adds a camera's uneven light, blur and noise; float -> uint8."""
    side = picture.shape[0]
    picture = picture * (1 + rng.uniform(0, 0.14) * smooth_noise(rng, picture.shape[:2], 1.5))[..., None]
    if rng.random() < 0.3:
        x, _ = _axes(rng, side, rng.uniform(0, 2 * np.pi))
        picture = picture * (1 + rng.uniform(-0.3, 0.3) * (x / side))[..., None]
    if rng.random() < 0.5:
        picture = ndimage.gaussian_filter(picture, (*[rng.uniform(0.3, 1.2)] * 2, 0))
    grain = rng.normal(0, rng.uniform(0.3, 5), picture.shape[:2])[..., None]
    return np.clip(picture + grain, 0, 255).astype(np.uint8)


# ------------------------------------------------------------------ textures
def cloudy(rng: Rng, side: int) -> Array:
    """Concrete, plaster, paper: noise of many scales."""
    return _tones(rng, _unit(smooth_noise(rng, (side, side), rng.uniform(2, 60), 5)))


def brushed(rng: Rng, side: int) -> Array:
    """Brushed metal or hair lines: noise drawn out along one axis."""
    field = ndimage.gaussian_filter(rng.standard_normal((side * 2, side * 2)), (rng.uniform(0.5, 2), rng.uniform(15, 60)))
    turned = ndimage.rotate(field, rng.choice((0, 90, rng.uniform(0, 180))), reshape=False, order=1, mode="wrap")
    return _tones(rng, _unit(turned[side // 2 : side // 2 + side, side // 2 : side // 2 + side]), rng.uniform(10, 70))


def wood(rng: Rng, side: int) -> Array:
    """Wood: warped rings along an axis, pores on top."""
    x, y = _axes(rng, side)
    warp = smooth_noise(rng, (side, side), rng.uniform(1, 3)) * rng.uniform(5, 25)
    rings = np.sin((y + warp + 0.05 * x) * 2 * np.pi / rng.uniform(8, 40)) + 0.4 * smooth_noise(rng, (side, side), 40, 2)
    brown = np.array([rng.uniform(120, 220), rng.uniform(80, 160), rng.uniform(40, 110)])
    return np.asarray(brown * (0.8 + rng.uniform(0.1, 0.35) * _unit(rings))[..., None])


def weave(rng: Rng, side: int) -> Array:
    """Fabric or carpet: two crossing threads, above and below in turn."""
    x, y = _axes(rng, side)
    period, jitter = rng.uniform(5, 26), rng.uniform(0, 1.2)
    x = x + jitter * smooth_noise(rng, (side, side), 12, 2)
    y = y + jitter * smooth_noise(rng, (side, side), 12, 2)
    warp, weft = np.cos(x * 2 * np.pi / period), np.cos(y * 2 * np.pi / period)
    over = np.sign(np.sin(x * np.pi / period) * np.sin(y * np.pi / period))
    field = np.where(over > 0, warp, weft) + rng.uniform(0, 0.8) * smooth_noise(rng, (side, side), side / 3)
    return _tones(rng, _unit(field))


def tiles(rng: Rng, side: int) -> Array:
    """Bricks or tiles: rectangles with joints, each a little different."""
    x, y = _axes(rng, side)
    high, wide = rng.uniform(14, 90), rng.uniform(20, 130)
    row = np.floor(y / high)
    column = np.floor((x + (row % 2) * wide * rng.choice((0, 0.5))) / wide)
    shade = rng.uniform(-1, 1, (64, 64))[row.astype(int) % 64, column.astype(int) % 64] * rng.uniform(0, 0.35)
    edge = np.minimum(np.minimum(y % high, high - y % high), np.minimum((x + (row % 2) * 0) % wide, wide - x % wide))
    field = 0.7 + shade + 0.1 * smooth_noise(rng, (side, side), 30, 3)
    return _tones(rng, np.where(edge < rng.uniform(1, 4), 0.0, field))


def mesh(rng: Rng, side: int) -> Array:
    """A grid of wires, or a perforated sheet."""
    x, y = _axes(rng, side)
    period = rng.uniform(10, 50)
    if rng.random() < 0.5:
        field = np.maximum(np.cos(x * 2 * np.pi / period), np.cos(y * 2 * np.pi / period))
    else:
        shift = (np.floor(y / period) % 2) * rng.choice((0, 0.5)) * period
        field = np.hypot((x + shift) % period - period / 2, y % period - period / 2) / period
    level = np.quantile(field, rng.uniform(0.3, 0.75))
    return _tones(rng, 1 / (1 + np.exp(-(field - level) * rng.uniform(10, 40))))


def grains(rng: Rng, side: int) -> Array:
    """Leather, terrazzo, crystals: cells with seams or with a tone each."""
    count = int(np.exp(rng.uniform(np.log(40), np.log(2500))))
    points = rng.uniform(-0.05 * side, 1.05 * side, (count, 2))
    y, x = np.mgrid[:side, :side]
    distance, owner = spatial.cKDTree(points).query(np.stack((y, x), -1), k=2)
    seam = distance[..., 1] - distance[..., 0]
    tone = rng.uniform(0, 1, count)[owner[..., 0]]
    mix = rng.uniform(0, 1)
    return _tones(rng, mix * tone + (1 - mix) * np.clip(seam / (0.25 * side / count**0.5), 0, 1))


def stripes(rng: Rng, side: int) -> Array:
    """Corrugated sheet, threads, zip teeth: one period, any profile."""
    x, _ = _axes(rng, side)
    period = rng.uniform(6, 60)
    wave = np.cos((x + rng.uniform(0, 2) * smooth_noise(rng, (side, side), 4)) * 2 * np.pi / period)
    return _tones(rng, _unit(np.sign(wave) * np.abs(wave) ** rng.uniform(0.3, 2) + 0.1 * smooth_noise(rng, (side, side), 60)))


def speckle(rng: Rng, side: int) -> Array:
    """Granite, carpet pile, sandpaper: fine noise with its own spectrum, sometimes thresholded flecks."""
    field = (
        rng.standard_normal((side, side)) if rng.random() < 0.5 else smooth_noise(rng, (side, side), rng.uniform(40, 120), 2)
    )
    field = ndimage.gaussian_filter(field, (rng.uniform(0.4, 2), rng.uniform(0.4, 2)))
    return _tones(rng, _unit(field) if rng.random() < 0.7 else (_unit(field) > rng.uniform(0.6, 0.9)).astype(np.float32))


def smooth(rng: Rng, side: int) -> Array:
    """Painted, moulded or glass surfaces: almost nothing but light."""
    return _tones(rng, _unit(smooth_noise(rng, (side, side), rng.uniform(0.7, 3))), rng.uniform(2, 30))


TEXTURES: dict[str, Callable[[Rng, int], Array]] = {
    f.__name__: f for f in (cloudy, brushed, wood, weave, tiles, mesh, grains, stripes, speckle, smooth)
}


# ------------------------------------------------------------------ objects
def _outline(rng: Rng, side: int, kind: str, centre: Array, radius: float, turn: float) -> Array:
    """(S, S) in [0, 1]: one shape, its edge two pixels wide."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    x, y = x - centre[0], y - centre[1]
    x, y = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    angle, reach = np.arctan2(y, x), np.hypot(x, y)
    if kind == "polygon":
        corners = rng.integers(3, 9)
        size = reach * np.cos((angle % (2 * np.pi / corners)) - np.pi / corners)
    elif kind == "gear":
        size = reach * (1 + rng.uniform(0.05, 0.15) * np.tanh(3 * np.cos(angle * rng.integers(6, 24))))
    elif kind == "bean":
        size = reach * (1 + sum(rng.normal(0, 0.08) * np.cos(k * angle + rng.uniform(0, 6)) for k in range(1, 5)))
    else:  # a superellipse: disc, capsule, box, bar
        power, flat = rng.choice((2.0, 2.0, 4.0, 12.0)), rng.choice((1.0, rng.uniform(0.15, 1.0)))
        size = (np.abs(x) ** power + np.abs(y / flat) ** power) ** (1 / power)
    return np.asarray(np.clip((radius - size) / 2 + 0.5, 0, 1), np.float32)


def _shaded(rng: Rng, alpha: Array, paint: Array) -> Array:
    """Rounds a flat shape: light from one side, a highlight, a darker rim."""
    height = ndimage.distance_transform_edt(alpha > 0.5)
    deep = rng.uniform(2, 0.5 * height.max() + 3)
    dome = np.sqrt(np.clip(1 - (1 - np.clip(height / deep, 0, 1)) ** 2, 0, 1))
    dome = ndimage.gaussian_filter(dome, 1.5)
    gy, gx = np.gradient(dome * deep)
    light = rng.uniform(0, 2 * np.pi)
    slope = np.clip(gx * np.cos(light) + gy * np.sin(light), -1, 1)
    shade = 1 + rng.uniform(0, 0.5) * slope - rng.uniform(0, 0.3) * (1 - dome)
    shine = np.clip(slope - rng.uniform(0.4, 0.8), 0, 1) * rng.choice((0, rng.uniform(50, 250)))
    return np.asarray(paint * shade[..., None] + shine[..., None])


def _parts(rng: Rng, side: int, alpha: Array, centre: Array, radius: float, turn: float, paint: Array) -> tuple[Array, Array]:
    """Regular details that belong to the object: bores, rings, ribs, a band, letters, pins."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    x, y = x - centre[0], y - centre[1]
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    reach, kind = np.hypot(x, y) / radius, rng.choice(("plain", "bore", "rings", "ribs", "band", "letters", "pins"))
    other = _tones(rng, np.zeros((side, side)))
    if kind == "bore":
        alpha = alpha * np.clip((reach - rng.uniform(0.2, 0.65)) * radius / 2 + 0.5, 0, 1)
    elif kind == "rings":
        paint = paint + np.sign(np.sin(reach * rng.uniform(6, 30)))[..., None] * rng.uniform(5, 40)
    elif kind == "ribs":
        paint = paint + (np.cos(along * 2 * np.pi / rng.uniform(4, 0.4 * radius + 5)))[..., None] * rng.uniform(5, 50)
    elif kind == "band":
        paint = np.where((along > rng.uniform(-0.4, 0.4) * radius)[..., None], other, paint)
    elif kind == "letters":
        canvas = Image.new("L", (side, side))
        word = "".join(rng.choice(list("ABCDEFGHKLMNPRSTX0123456789"), rng.integers(2, 6)))
        ImageDraw.Draw(canvas).text(tuple(centre), word, fill=255, anchor="mm", font_size=max(8, 0.4 * radius))
        stamp = np.asarray(canvas.rotate(-np.degrees(turn), center=tuple(centre)), np.float32)[..., None] / 255
        paint = paint + (other - paint) * stamp
    elif kind == "pins":
        pitch = rng.uniform(0.15, 0.5) * radius
        dots = np.hypot(along % pitch - pitch / 2, across % pitch - pitch / 2) < 0.3 * pitch
        paint = np.where((dots & (reach < 0.85))[..., None], other, paint)
    return alpha, paint


def single(rng: Rng, side: int, count: int = 1) -> tuple[Array, Array]:
    """``count`` equal objects on a ground -> picture (float) and outline (bool)."""
    ground = (
        _tones(rng, np.zeros((side, side)))
        if rng.random() < 0.6
        else TEXTURES[str(rng.choice(("cloudy", "smooth", "speckle", "weave")))](rng, side)
    )
    if rng.random() < 0.3:
        ground = ground * 0 + rng.choice((rng.uniform(0, 20), rng.uniform(235, 255)))
    kind = str(rng.choice(("round", "round", "polygon", "gear", "bean")))
    outline = np.zeros((side, side), bool)
    places = [np.full(2, side / 2) + rng.normal(0, 0.03 * side, 2)] if count == 1 else _spread(rng, side, count)
    radius = rng.uniform(0.25, 0.55) * side if count == 1 else 0.36 * side / np.ceil(count**0.5)
    skin, look = str(rng.choice(list(TEXTURES))), int(rng.integers(2**31))
    turns, upright = rng.uniform(0, 2 * np.pi, count), rng.random() < 0.4
    for place, turn in zip(places, turns, strict=True):
        same = np.random.default_rng(look)  # all objects look alike
        turn = float(turns[0] if upright else turn)
        alpha = _outline(same, side, kind, place, radius, turn)
        paint = TEXTURES[skin](same, side) if same.random() < 0.6 else _tones(same, np.zeros((side, side)))
        alpha, paint = _parts(same, side, alpha, place, radius, turn, paint)
        ground = (
            ground
            * (1 - 0.35 * (same.random() < 0.5) * np.roll(ndimage.gaussian_filter(alpha, 4), (3, 3), (0, 1)) * (1 - alpha))[
                ..., None
            ]
        )
        ground = ground + (_shaded(same, alpha, paint) - ground) * alpha[..., None]
        outline |= alpha > 0.5
    return ground, outline


def _spread(rng: Rng, side: int, count: int) -> list[Array]:
    """Positions of several objects: a jittered grid."""
    across = int(np.ceil(count**0.5))
    cells = [(np.array((c, r)) + 0.5) * side / across for r in range(across) for c in range(across)]
    return [cell + rng.normal(0, 0.03 * side / across, 2) for cell in cells[:count]]


def several(rng: Rng, side: int) -> tuple[Array, Array]:
    """Two to nine equal objects."""
    return single(rng, side, int(rng.integers(2, 10)))


def board(rng: Rng, side: int) -> tuple[Array, Array]:
    """A circuit board: traces, pads, chips."""
    base = np.array([rng.uniform(0, 60), rng.uniform(40, 130), rng.uniform(20, 120)])
    picture = Image.new("RGB", (side, side), tuple(int(v) for v in base))
    draw, copper = ImageDraw.Draw(picture), tuple(int(v) for v in base * 0.8 + (40, 50, 20))
    metal = tuple(int(v) for v in rng.uniform(150, 230) * np.array((1, 0.98, rng.uniform(0.6, 1))))
    for _ in range(rng.integers(6, 30)):
        at = rng.uniform(0, side, 2)
        for _ in range(rng.integers(1, 4)):
            step = np.array(((1, 0), (0, 1), (0.7, 0.7), (0.7, -0.7))[rng.integers(4)]) * rng.uniform(-0.4, 0.4) * side
            draw.line((*at, *(at + step)), fill=copper, width=int(rng.integers(2, 6)))
            at = at + step
        draw.ellipse((*(at - 4), *(at + 4)), fill=metal)
    for _ in range(rng.integers(2, 9)):
        w, h = rng.uniform(0.06, 0.3, 2) * side
        x, y = rng.uniform(0, side - w), rng.uniform(0, side - h)
        for pin in np.arange(x, x + w, 7):
            draw.rectangle((pin, y - 4, pin + 3, y + h + 4), fill=metal)
        draw.rectangle((x, y, x + w, y + h), fill=(int(rng.uniform(10, 70)),) * 3)
    return np.asarray(picture, np.float32), np.ones((side, side), bool)


OBJECTS: dict[str, Callable[[Rng, int], tuple[Array, Array]]] = {f.__name__: f for f in (single, several, board)}


# ------------------------------------------------------------------ photographs
def photographs() -> dict[str, Array]:
    """RGB pictures by name; needs scikit-image and scikit-learn."""
    import skimage.data
    from sklearn.datasets import load_sample_images

    found = {name: np.asarray(Image.fromarray(getattr(skimage.data, name)()).convert("RGB")) for name in PHOTOGRAPHS}
    return found | dict(zip(("china", "flower"), load_sample_images().images, strict=True))


def crop(rng: Rng, picture: Array, side: int) -> Array:
    """A random square of a photograph, turned by quarter turns and mirrored, resized to ``side``."""
    least = min(picture.shape[:2])
    size = int(min(least, max(0.25 * least, rng.uniform(0.4, 1) * least)))
    top, left = rng.integers(0, picture.shape[0] - size + 1), rng.integers(0, picture.shape[1] - size + 1)
    square = np.rot90(picture[top : top + size, left : left + size], rng.integers(4))[:, :: int(rng.choice((1, -1)))]
    return np.asarray(Image.fromarray(np.ascontiguousarray(square)).resize((side, side), Image.Resampling.BICUBIC))


def textiles(kind: str) -> Iterator[Array]:
    """The pictures of ``conformal-clip-data``: "nominal", or "local" (a simulated textile with a local defect, no mask)."""
    import conformal_clip_data

    for path in sorted((Path(conformal_clip_data.textile_simulated_root()) / kind).glob("*.jpg")):
        yield np.asarray(Image.open(path).convert("RGB").resize((256, 256), Image.Resampling.BICUBIC))
