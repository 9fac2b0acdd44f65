from __future__ import annotations

import json
from pathlib import Path

from evaluation.evidence.exhibit import Exhibit, Table, canvas


def test_an_exhibit_says_how_to_get_it_again_and_what_failed(tmp_path: Path) -> None:
    figure = canvas(2, 2)
    figure.axes[0].plot([0, 1], [0, 1])
    table = Table("Sizes", ("cluster", "terms"), [("expert-0", "a|b\nc")])
    exhibit = Exhibit(
        "t2", "Table 2", [table], {"k": 1}, failures=["Figure 5: no source."], picture=figure, seeds=(0, 7)
    )
    page, record, picture = exhibit.write(tmp_path, "gradientspace evidence x")
    text = page.read_text()
    assert "`gradientspace evidence x`" in text
    assert "seeds 0, 7" in text
    assert "| expert-0 | a\\|b c |" in text
    assert "- failed: Figure 5: no source." in text
    assert "(t2.png)" in text
    kept = json.loads(record.read_text())
    assert kept["k"] == 1
    assert kept["seeds"] == [0, 7]
    assert kept["failures"] == ["Figure 5: no source."]
    assert kept["commit"] in text or kept["commit"][:12] in text
    assert picture.read_bytes().startswith(b"\x89PNG")
