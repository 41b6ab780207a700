"""Folder names become object names for prompts; the raw name stays for comparisons with published code."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import trees

from zsad.common.assets import asset
from zsad.datasets import open_dataset, prompt_name
from zsad.errors import UnknownName
from zsad.prompts.prompt_set import PromptSet

LISTS = """
carpet bottle hazelnut leather cable capsule grid pill transistor metal_nut screw toothbrush zipper tile wood
can fabric fruit_jelly rice sheet_metal vial wallplugs walnuts
breakfast_box juice_bottle pushpins screw_bag splicing_connectors
candle capsules cashew chewinggum fryum macaroni1 macaroni2 pcb1 pcb2 pcb3 pcb4 pipe_fryum
bracket_black bracket_brown bracket_white connector metal_plate tubes
Woven_001 Woven_127 Woven_104 Stratified_154 Blotchy_099 Woven_068 Woven_125 Marbled_078 Perforated_037 Mesh_114 Fibrous_183
Matted_069
audiojack bottle_cap button_battery end_cap eraser fire_hood mint mounts pcb phone_battery plastic_nut plastic_plug
porcelain_doll regulator rolled_strip_base sim_card_set switch tape terminalblock toothbrush toy toy_brick transistor1 u_block
usb usb_adaptor vcpill wooden_beads woodstick zipper
brain headct brain_mri br35h chest skin isic colon ColonDB ClinicDB CVC-ColonDB CVC-ClinicDB Kvasir endo tn3k thyroid SDD
"""


def test_the_categories_of_public_sets_are_listed() -> None:
    table = tomllib.loads(asset("prompts/classes.toml").read_text(encoding="utf-8"))
    assert {name.casefold() for name in LISTS.split()} <= table["names"].keys()
    sets = [names for entry in table["data_set"] if (names := entry.get("names"))]
    words = [*table["names"].values(), *(name for names in sets for name in names.values())]
    assert all(name == name.strip() and not set(name) & set("_-0123456789") for name in words)
    assert all(key == key.casefold() for key in table["names"])


@pytest.mark.parametrize(
    ("category", "name"),
    [
        ("pcb1", "printed circuit board"),
        ("metal_nut", "metal nut"),
        ("bracket_black", "black bracket"),
        ("Woven_001", "woven texture"),
        ("HeadCT", "head ct"),
        ("my_new-part", "my new part"),
        ("valve_12", "valve"),
        ("m3screw", "m3screw"),
        ("Überwurfmutter2", "Überwurfmutter"),
        ("01", "object"),
        ("_", "object"),
        ("", "object"),
    ],
)
def test_names_and_the_rule(category: str, name: str) -> None:
    assert prompt_name(category) == name
    assert prompt_name(category, raw=True) == category


@pytest.mark.parametrize(
    ("tree", "folder", "category", "name"),
    [
        ("btad", "BTech_Dataset_transformed", "01", "product"),
        ("btad", "unnamed", "01", "object"),
        ("dagm", "DAGM_KaggleUpload", "Class10", "textured surface"),
        ("dagm", "unnamed", "Class2", "textured surface"),
        ("ksdd", "unnamed", "unnamed", "electrical commutator"),
        ("ksdd2", "KolektorSDD2", "KolektorSDD2", "product surface"),
        ("mtd", "Magnetic-tile-defect-datasets.", "Magnetic-tile-defect-datasets.", "magnetic tile"),
        ("elpv", "unnamed", "poly", "solar cell"),
        ("yes_no", "Br35H", "Br35H", "brain mri"),
        ("mvtec", "btad_beside", "bottle", "bottle"),
    ],
)
def test_the_data_set_names_what_its_folders_do_not(tree: str, folder: str, category: str, name: str, tmp_path: Path) -> None:
    trees.TREES[tree][1](tmp_path / folder)
    data = open_dataset(tmp_path / folder)
    assert category in data.categories
    assert data.prompt_name(category) == name
    assert data.prompt_name(category, raw=True) == category


def test_one_category_is_named_by_the_folder_above(tmp_path: Path) -> None:
    trees.btad(tmp_path / "BTAD")
    assert open_dataset(tmp_path / "BTAD" / "01").prompt_name("01") == "product"
    trees.btad(tmp_path / "btad_and_others" / "mine")
    assert open_dataset(tmp_path / "btad_and_others" / "mine").prompt_name("01") == "object"


def test_the_table_of_names_is_no_prompt_set() -> None:
    with pytest.raises(UnknownName, match="No prompt set is called 'classes'"):
        PromptSet.load("classes")
