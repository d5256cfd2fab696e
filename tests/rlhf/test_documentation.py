"""Pipelines that the documentation shows are whole."""

import contextlib
import re
from pathlib import Path

import pytest

from dovetail_rlhf.reading import read

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"<!-- snippet: pipeline -->\n```yaml\n(.*?)```", re.S)


@pytest.mark.parametrize("page", ["docs/how-to/rlhf.md", "plugins/services/rlhf/README.md"])
def test_a_pipeline_of_the_documentation_is_accepted(page, tmp_path):
    """With nothing but the files that it names."""
    found = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    assert found
    with contextlib.chdir(tmp_path):
        for code in found:
            for file in re.findall(r"[\w-]+\.jsonl", code):
                Path(file).touch()
            Path("pipeline.yaml").write_text(code, encoding="utf-8")
            assert len(read("pipeline.yaml").stages) > 1
