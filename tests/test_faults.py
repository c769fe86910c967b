"""Every fault that is said to be mended is held by a test, and the table says which."""

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location(
    "faults_table", Path(__file__).parents[1] / "scripts" / "faults_table.py"
)
faults_table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(faults_table)


def test_the_table_of_faults_is_up_to_date():
    text = faults_table.TABLE.read_text("utf-8")
    assert faults_table.filled(text, faults_table.marked_tests()) == text


def test_a_fault_without_a_test_and_a_test_without_a_fault_are_told():
    row = "| T1 | was | is | |\n"
    assert "`a::b`" in faults_table.filled(row, {"T1": ["a::b"]})
    with pytest.raises(SystemExit, match="No test holds T1"):
        faults_table.filled(row, {})
    with pytest.raises(SystemExit, match=r"Not in docs/faults\.md: T2"):
        faults_table.filled(row, {"T1": ["a::b"], "T2": ["a::c"]})
