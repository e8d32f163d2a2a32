"""How evenly the experts were used, as a picture in the report: SVG, written by hand.

Paper: II (figure 4: load entropy over training).
"""

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 22, 34
"""Margins around the curve."""


def load_entropy_picture(by_stage: Mapping[str, Sequence[float]]) -> str:
    """Return an SVG of the load entropy over all steps; stages follow one another, with a line.

    Entropy is divided by ln E, so 1 is even use. Without any step there is a frame only.
    """
    total = max(1, sum(len(values) for values in by_stage.values()))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="11" fill="#444">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="13">load entropy / ln E, mean over layers, by optimizer step</text>',
    ]
    for level in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(level)
        parts.append(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{level:.2f}</text>')
    step = 0
    for name, values in by_stage.items():
        x = _x(step, total)
        parts.append(f'<path d="M{x} {TOP}V{HEIGHT - BOTTOM}" stroke="#999" stroke-dasharray="3"/>')
        parts.append(f'<text x="{x + 4}" y="{HEIGHT - BOTTOM + 15}">{escape(name)}</text>')
        points = " ".join(f"{_x(step + i, total)},{_y(v)}" for i, v in enumerate(values))
        parts.append(f'<polyline points="{points}" fill="none" stroke="#1b6ca8"/>')
        step += len(values)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(step: int, total: int) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * step / total, 1)


def _y(value: float) -> float:
    return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(1.0, max(0.0, value)), 1)
