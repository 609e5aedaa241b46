import json
import re
from pathlib import Path

import pytest

from fedsim.report import charts
from fedsim.report.folder import read_run


@pytest.mark.parametrize(
    ("distances", "labels"),
    [([730.0, 2.6], ["0", "3", "30", "300"]), ([0.8, 0.2], ["0", "0.1", "0.3", "1"])],
)
def test_distances_of_all_sizes_have_an_axis_to_be_read_off(
    tmp_path: Path, distances: list[float], labels: list[str]
) -> None:
    rows = [{"round": number, "sample_distance": value} for number, value in enumerate(distances)]
    (tmp_path / "scenario.toml").write_text("")
    (tmp_path / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn = charts.sample_distance(read_run(tmp_path))
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", str(drawn))
    assert set(labels) <= set(texts)
