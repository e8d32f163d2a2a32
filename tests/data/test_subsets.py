"""A folder of several data sets, as its card says, is not read as one."""

import json

import pytest

from openzaya.core.errors import DataError
from openzaya.data.sources import chunks_of, rows_of
from openzaya.data.subsets import configurations

CARD = """---
license: mit
configs:
- config_name: en
  default: true
  data_files:
  - split: test
    path: en/test-*
  - split: train
    path: ["en/train-*", "more/**/en?.jsonl"]
- config_name: fr
  data_files: fr/*
- config_name: de
  data_dir: de
- config_name: bare
  data_files: {test: x.jsonl, train: y.jsonl}
---
configs:
"""
FILES = ("en/train-0.jsonl", "more/a/b/en1.jsonl", "fr/a.jsonl", "de/a.jsonl")


def folder(root, card=CARD, files=FILES):
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps({"text": name}))
    (root / "README.md").write_text(card)
    return root


def read(place):
    return [row.value["text"] for chunk in chunks_of("s", place, 64) for row in rows_of(chunk, 99)]


def test_the_card_names_the_files_of_every_configuration_those_to_train_first():
    assert configurations(CARD) == {
        "en": ["en/train-*", "more/**/en?.jsonl", "en/test-*"],
        "fr": ["fr/*"],
        "de": ["de/**/*"],
        "bare": ["y.jsonl", "x.jsonl"],
    }
    nothing = ("", "configs:\n- x", "---\nconfigs: 3\n---\n", "---\nconfigs: [{]\n---\n")
    assert all(configurations(text) == {} for text in nothing)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_several_configurations_are_listed_and_each_can_be_read(tmp_path, scheme):
    if scheme:
        pytest.importorskip("fsspec")
    place = f"{scheme}{folder(tmp_path)}"
    listed = rf"3 data sets .*\(en \({place}/en/train-\*\), fr \({place}/fr/\*\), de .*'en={place}"
    for name in (place, f"{place}/"):
        with pytest.raises(DataError, match=listed):
            read(name)
    assert read(f"{place}/en/train-*") == ["en/train-0.jsonl"]
    assert read(f"{place}/de/**/*") == ["de/a.jsonl"]
    assert sorted(read(f"{place}/**/*")) == sorted(FILES)


def test_one_configuration_or_one_that_holds_all_the_others_is_the_folder(tmp_path):
    whole = CARD.replace("- config_name: fr", "- config_name: all\n- config_name: fr")
    assert sorted(read(str(folder(tmp_path, whole)))) == sorted(FILES)
    for card in (CARD, "no front matter", CARD.replace("configs:", "others:")):
        files = FILES[:2] if card == CARD else FILES
        place = folder(tmp_path / str(len(card)), card, files)
        assert sorted(read(str(place))) == sorted(files)


def test_of_many_configurations_the_first_are_listed(tmp_path):
    names = [f"l{number}" for number in range(20)]
    card = "---\nconfigs:\n" + "".join(
        f"- {{config_name: {name}, data_files: {name}.jsonl}}\n" for name in names
    )
    place = folder(tmp_path, f"{card}---\n", [f"{name}.jsonl" for name in names])
    with pytest.raises(DataError, match=r"holds 20 .*l7 \(\S*\) and 12 more\), expected one"):
        read(str(place))
