"""The picture of load entropy in the nano report."""

import json
import re
from xml.etree import ElementTree

import pytest

import openzaya.recipes.nano.speedrun  # noqa: F401 - declares the metrics
from openzaya.cli.samplers import model_folder
from openzaya.core.log import MetricWriter, read_metrics
from openzaya.recipes.nano.picture import BOTTOM, HEIGHT, LEFT, TOP, load_entropy_picture
from openzaya.recipes.nano.report import ENTROPY_PICTURE, entropy_by_stage, report_card


def curves(svg):
    """Return the points of each curve."""
    root = ElementTree.fromstring(svg)
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    return [
        [tuple(float(x) for x in point.split(",")) for point in line.get("points").split()]
        for line in lines
    ]


def test_each_stage_is_a_curve_that_starts_where_the_last_one_ended():
    first, second = curves(load_entropy_picture({"one": [0.0, 1.0], "two": [0.5]}))
    assert first[0] == (LEFT, HEIGHT - BOTTOM)
    assert first[1][1] == TOP
    assert second[0][0] - first[1][0] == pytest.approx(first[1][0] - first[0][0], abs=0.2)
    assert first[1][0] > first[0][0] + 100
    assert second[0][1] == (TOP + HEIGHT - BOTTOM) / 2


def test_values_outside_the_frame_and_names_with_markup_do_no_harm():
    svg = load_entropy_picture({"<a>": [1.5, -0.5]})
    assert [y for _, y in curves(svg)[0]] == [TOP, HEIGHT - BOTTOM]
    assert "&lt;a&gt;" in svg
    assert curves(load_entropy_picture({})) == []


def test_the_curves_come_from_the_metrics_of_all_stages(tmp_path):
    writer = MetricWriter(tmp_path / "metrics.jsonl")
    for number, value in ((1, 0.25), (2, 0.75)):
        writer.write(number, "sft", {"train/loss": 1.0, "train/load_entropy": value})
    writer.write(1, "rl", {"rl/load_entropy": 0.5})
    writer.write(2, "rl", {"train/loss": 1.0})
    found = entropy_by_stage(read_metrics(writer.path))
    assert found == {"sft": [0.25, 0.75], "rl": [0.5]}


def test_the_report_card_shows_the_picture():
    report = json.loads((model_folder("nano") / "report.json").read_text())
    assert re.search(rf"!\[[^]]+\]\({re.escape(ENTROPY_PICTURE)}\)", report_card(report))
