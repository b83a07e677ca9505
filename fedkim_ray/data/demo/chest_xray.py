"""A SYNTHETIC chest phantom: frontal X-rays drawn from ellipses, bands and smooth noise.

Nothing here comes from a patient. A radiograph is the sum of what the beam passes: soft tissue of
the chest, less the air of two lungs, plus heart, mediastinum, spine and ribs. Each finding adds or
removes density of its own and may stand beside any other. What a reader has to see through varies
from image to image (pose, inspiration, build, ribs, vessels, exposure) and from scanner to scanner.

As on film, the patient's left is on the right of the image. Shape letters: N images, S pixels a
side; fields are (N, S, S), numbers of one image (N, 1, 1); x grows to the right, y downwards, both
-1 to 1 over the image.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
from scipy.ndimage import gaussian_filter1d

Field: TypeAlias = np.ndarray
RIGHT, LEFT = 0, 1
"""Sides of the patient; where a finding is in one lung, its ``side`` says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """What an X-ray unit and its operators do to all of their images."""

    exposure: float = 0.0
    """Added to the grey value; a positive one is a pale, underexposed film."""
    contrast: float = 1.0
    gamma: float = 1.0
    blur_px: float = 0.5
    """Standard deviation of the detector's blur."""
    noise: float = 0.05
    """Standard deviation of the quantum noise, as a share of the grey range."""
    marker: bool = False
    """Whether the film carries a bright side marker in its upper left corner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Strengths of the five findings in N images, 0 (absent) to 1 (plain), and their sides."""

    opacity: np.ndarray
    covid: np.ndarray
    wide_mediastinum: np.ndarray
    atelectasis: np.ndarray
    effusion: np.ndarray
    side: np.ndarray
    """RIGHT or LEFT, of the one-sided findings: opacity, atelectasis, effusion."""

    @classmethod
    def of(cls, num_images: int, **strengths: np.ndarray | float) -> "Findings":
        """Return findings with the strengths given and all others absent; the side is RIGHT."""
        names = [field.name for field in fields(cls)]
        values: Mapping[str, np.ndarray] = {
            name: np.broadcast_to(np.asarray(strengths.get(name, 0)), (num_images,))
            for name in names
        }
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """One chest an image: where things are once pose, build and inspiration are drawn."""

    x: Field
    y: Field
    lungs: tuple[Field, Field]
    """Share of air, 0 to 1, of the right and of the left lung, without findings."""
    edge: tuple[Field, Field]
    """Distance from the lung's centre as a share of its radius: 1 on the pleura."""
    base_y: np.ndarray
    """Height of the diaphragm, (N, 1, 1)."""
    texture: Field
    """Smooth noise of about unit size, which shapes vessels and opacities."""


def draw_chests(
    findings: Findings, scanner: Scanner, rng: np.random.Generator, size_px: int = 64
) -> np.ndarray:
    """Draw one X-ray for each entry of ``findings``.

    The random numbers do not depend on the findings: the same generator state gives the same
    chests, with and without them.

    Returns:
        (N, S, S) uint8, bright where the beam was stopped.
    """
    num_images = len(findings.side)
    anatomy = _anatomy(num_images, size_px, rng)
    air = _air(anatomy, findings, rng)
    density = _soft_tissue(anatomy, findings, rng) - 0.55 * air
    density += _ribs(anatomy, rng)
    density += (0.05 * anatomy.texture) * air
    density += _shadows(anatomy, findings, rng)
    return _expose(density, scanner, rng)


def _per_image(rng: np.random.Generator, num_images: int, low: float, high: float) -> np.ndarray:
    drawn: np.ndarray = rng.uniform(low, high, (num_images, 1, 1)).astype(np.float32)
    return drawn


def _soft(distance: Field, width: float) -> Field:
    """Return a smooth step: 1 where ``distance`` is well below 0, 0 well above."""
    t = np.clip(0.5 - distance / (3 * width), 0, 1)
    step: Field = t * t * (3 - 2 * t)
    return step


def smooth_noise(rng: np.random.Generator, num_images: int, size_px: int, cells: int) -> Field:
    """Return (N, S, S) noise of about unit size that varies over S / cells pixels."""
    knots = rng.standard_normal((num_images, cells + 1, cells + 1), np.float32)
    at = np.linspace(0, cells, size_px, dtype=np.float32)[:, None]
    weight = np.clip(1 - np.abs(at - np.arange(cells + 1, dtype=np.float32)), 0, None)
    # Linear interpolation along both axes leaves 2/3 of the variance of each, on average.
    fine: Field = 1.5 * (weight @ knots @ weight.T)
    return fine


def _anatomy(num_images: int, size_px: int, rng: np.random.Generator) -> Anatomy:
    grid = np.linspace(-1, 1, size_px, dtype=np.float32)
    y, x = np.meshgrid(grid, grid, indexing="ij")
    tilt = _per_image(rng, num_images, -0.12, 0.12)
    scale = _per_image(rng, num_images, 0.88, 1.12)
    x = (x[None] - _per_image(rng, num_images, -0.1, 0.1)) / scale
    y = (y[None] - _per_image(rng, num_images, -0.1, 0.1)) / scale
    x, y = x * np.cos(tilt) + y * np.sin(tilt), y * np.cos(tilt) - x * np.sin(tilt)
    base_y = _per_image(rng, num_images, 0.38, 0.68)  # inspiration
    width = _per_image(rng, num_images, 0.33, 0.41)  # build
    lungs, edge = [], []
    for sign in (-1, 1):
        centre = sign * (0.13 + width)
        r = np.hypot((x - centre * (1 + 0.12 * y)) / width, (y + 0.12) / 0.72)
        dome = base_y + 0.04 * sign - 0.10 * (1 - ((x - centre) / width) ** 2)
        lungs.append(_soft((r - 1) * width, 0.04) * _soft(y - dome, 0.04))
        edge.append(r)
    texture = smooth_noise(rng, num_images, size_px, 12) + smooth_noise(rng, num_images, size_px, 5)
    return Anatomy(
        x=x,
        y=y,
        lungs=(lungs[0], lungs[1]),
        edge=(edge[0], edge[1]),
        base_y=base_y,
        texture=texture / np.sqrt(2, dtype=np.float32),
    )


def _column(strength: np.ndarray) -> np.ndarray:
    column: np.ndarray = np.asarray(strength, np.float32)[:, None, None]
    return column


def _of_side(pair: tuple[Field, Field], side: np.ndarray) -> Field:
    return np.where(side[:, None, None] == LEFT, pair[1], pair[0])


def _air(a: Anatomy, f: Findings, rng: np.random.Generator) -> Field:
    """Return the share of air: both lungs, less what effusion and atelectasis displace."""
    num_images = len(f.side)
    air = list(a.lungs)
    slope = _per_image(rng, num_images, 0.2, 0.5)  # the meniscus climbs towards the chest wall
    volume = _per_image(rng, num_images, 0.9, 1.1) * _column(f.effusion)
    collapse = _per_image(rng, num_images, 0.9, 1.1) * _column(f.atelectasis)
    for side in (RIGHT, LEFT):
        here = _column(f.side == side)
        level = a.base_y + 0.05 - 0.42 * volume * here
        fluid = _soft(level - slope * volume * np.abs(a.x) - a.y, 0.05)
        raised = _soft(a.base_y - 0.02 - 0.22 * collapse * here - a.y, 0.05)
        air[side] = air[side] * (1 - here * (volume > 0) * fluid)
        air[side] = air[side] * (1 - here * (collapse > 0) * raised)
    both: Field = air[0] + air[1]
    return both


def _soft_tissue(a: Anatomy, f: Findings, rng: np.random.Generator) -> Field:
    """Return body, spine, heart and mediastinum."""
    num_images = len(f.side)
    body = 0.72 * _soft(np.hypot(a.x / 1.05, a.y / 1.5) - 1, 0.08)
    half_width = _per_image(rng, num_images, 0.13, 0.19)
    half_width = half_width * (1 + 0.9 * _column(f.wide_mediastinum) * np.exp(-((a.y + 0.3) ** 2)))
    centre = 0.05 * np.sin(2 * a.y) + _per_image(rng, num_images, -0.03, 0.03)
    band = _soft(np.abs(a.x - centre) - half_width, 0.04)
    heart_size = _per_image(rng, num_images, 0.85, 1.15)
    apex = np.hypot((a.x - 0.14 - 0.2 * a.y) / 0.36, (a.y - a.base_y + 0.24) / 0.27) / heart_size
    heart = _soft(apex - 1, 0.12) * (0.4 + 0.6 * _soft(a.y - a.base_y, 0.08))
    tissue: Field = body + 0.34 * np.maximum(band, heart)
    return tissue


def _ribs(a: Anatomy, rng: np.random.Generator) -> Field:
    """Return curved, evenly spaced stripes over the lungs, of varying spacing and phase."""
    num_images = len(a.base_y)
    spacing = _per_image(rng, num_images, 0.17, 0.23)
    phase = _per_image(rng, num_images, 0, 2 * np.pi)
    slope = _per_image(rng, num_images, 0.25, 0.55)
    height = a.y - slope * np.abs(a.x) + 0.9 * (np.abs(a.x) - 0.3) ** 2
    stripes = np.cos(2 * np.pi * height / spacing + phase)
    strength = _per_image(rng, num_images, 0.05, 0.13)
    cage = _soft(np.abs(a.x) - 0.88, 0.05) * _soft(a.y - a.base_y - 0.1, 0.1)
    ribs: Field = strength * np.maximum(stripes, 0) ** 2 * cage
    return ribs


def _shadows(a: Anatomy, f: Findings, rng: np.random.Generator) -> Field:
    """Return the density that opacity, COVID-like opacities and a collapsed plate add."""
    num_images = len(f.side)
    patchy = np.clip(0.7 + 0.35 * a.texture, 0, None)
    lung = _of_side(a.lungs, f.side)
    sign = _column(np.where(f.side == LEFT, 1, -1))
    centre_x = sign * _per_image(rng, num_images, 0.28, 0.62)
    centre_y = _per_image(rng, num_images, -0.45, 0.25)
    radius = _per_image(rng, num_images, 0.2, 0.32)
    blob = np.exp(-((a.x - centre_x) ** 2 + (a.y - centre_y) ** 2) / (2 * radius**2))
    opacity = 0.7 * _column(f.opacity) * blob * patchy * lung

    reach = _per_image(rng, num_images, 0.55, 0.75)
    covid = np.zeros_like(a.x)
    for side, outward in ((RIGHT, -1), (LEFT, 1)):
        rim = _soft(reach - a.edge[side], 0.12) * _soft(-outward * a.x + 0.3, 0.08)
        covid += rim * _soft(-a.y - 0.25, 0.2) * a.lungs[side]
    covid *= 0.42 * _column(f.covid) * patchy

    tilt = _per_image(rng, num_images, -0.35, 0.35)
    plate_y = a.base_y - _per_image(rng, num_images, 0.22, 0.42)
    plate = np.exp(-(((a.y - plate_y - tilt * (a.x - centre_x)) / 0.05) ** 2))
    atelectasis = 0.4 * _column(f.atelectasis) * plate * lung
    shadows: Field = opacity + covid + atelectasis
    return shadows


def _expose(density: Field, scanner: Scanner, rng: np.random.Generator) -> np.ndarray:
    """Return the film: scanner's response and each image's own exposure, blur, noise, marker."""
    num_images, size_px = density.shape[:2]
    grey = np.clip(density / 1.15, 0, None) ** scanner.gamma
    contrast = scanner.contrast * _per_image(rng, num_images, 0.8, 1.2)
    offset = scanner.exposure + _per_image(rng, num_images, -0.1, 0.1)
    shade = smooth_noise(rng, num_images, size_px, 2)
    grey = 0.5 + contrast * (grey - 0.5) + offset + 0.03 * shade
    for axis in (1, 2):
        grey = gaussian_filter1d(grey, scanner.blur_px, axis=axis)
    grey = grey + scanner.noise * rng.standard_normal(grey.shape, np.float32)
    if scanner.marker:
        grey[:, 3:8, 3:6] = 0.95
    film: np.ndarray = (255 * np.clip(grey, 0, 1)).astype(np.uint8)
    return film
