"""The page of a study: what it says, what it carries, and that no text of the user's becomes markup."""

import html
import json
import re
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_study import BLIND, P99, TRUTHS, WARNING, small_study, write_sample_study

import fedsim
from fedsim.cli import main
from fedsim.errors import InputError
from fedsim.studies.page import write_page
from fedsim.studies.page.content import Content, read_content
from fedsim.studies.page.embed import library, script_json
from fedsim.studies.page.pictures import MOST
from fedsim.studies.page.promises import weakest
from fedsim.studies.table import read_table, write_table
from fedsim.studies.words import threshold_markdown, threshold_text

HOSTILE = "</script><b onmouseover=alert(1)>&amp;{{ 7*7 }}"
MAGIC = {"png": b"\x89PNG\r\n\x1a\n", "svg": b"<svg", "pdf": b"%PDF-"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = write_sample_study(tmp_path_factory.mktemp("study"), privacy=True, fail=1)
    write_page(out, name="sample", about="What it is about.")
    return out


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "study.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(page: str) -> str:
    """What a reader sees of it."""
    return html.unescape(re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL))


@pytest.fixture(scope="module")
def content(folder: Path) -> Content:
    return read_content(folder)


def embedded(page: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="study-{name}">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


# ---- what it says -------------------------------------------------------------------------------


def test_the_first_screen_answers(text: str) -> None:
    words = " ".join(text.split())
    assert "Of 3 defences only noising keeps the images from an attacker who knows the defence" in words
    for sentence in (
        "Masking, in all 4 settings: p = 0.1 keeps images from the attacker who ignores it; no strength up "
        "to p = 0.9 keeps them from the one who knows it.",
        "Clipping, in all 4 settings: norm = 1 keeps images from the attacker who ignores it; no strength "
        "down to norm = 0.01 keeps them from the one who knows it.",
    ):
        assert sentence in words
    assert f"90% of the images score at most {P99}" in words
    assert "Each strength was tried on 4 to 8 images" in words
    assert "Without a defence 32 of 32 images leaked" in words
    assert "95% interval 0.1 to 0.1" in words
    assert "2 seeds, pooled" in words
    assert WARNING in words


def test_methods_can_be_cited(text: str) -> None:
    words = " ".join(text.split())
    for told in (
        "80 runs of a federation, 79 of them finished.",
        "Data: fashion_mnist or mnist.",
        "Seeds: 1, 2 (pooled).",
        "masking (p = 0.1, 0.5, 0.9); clipping (norm = 1, 0.1, 0.01)",
        "threat model C",
        "updates, model, client updates, batch size, recipe and defense",
        "iDLG (Zhao, Mopuri & Bilen 2020, arXiv 2001.02610)",
        "the 0.9 quantile",
        f"the bound of {P99}",
        "Wilson's for shares",
        "BCa bootstrap over clients (2,000 resamples)",
        "Software: fedsim 0.1.0, python 3.11, torch 2.11.",
    ):
        assert told in words
    assert "seed 2 failed worker died <twice>" in words


def test_promises_stand_beside_what_was_measured(page: str, text: str) -> None:
    assert "no norm is bounded" in text
    assert re.search(r"8\.25\s+1e-05", text)
    promised = page.split('data-table="promises"')[1].split("</table>")[0]
    assert promised.count("<tr data-series=") == 2 * 3 * 2 * 2
    assert "of 8 leaked" in promised


def test_tables_hold_every_cell_and_threshold(page: str) -> None:
    rows = page.split('data-table="rows"')[1].split("</table>")[0]
    assert rows.count("<tr data-series=") == 8 + (72 - 1) * 2  # the undefended cells have one attacker
    assert rows.count('aria-sort="none"') == 13
    found = page.split('data-table="thresholds"')[1].split("</table>")[0]
    assert found.count("<tr data-series=") == 2 * 2 * 3 * 2


def test_the_page_is_one_file_without_addresses_of_its_own(page: str, folder: Path) -> None:
    shown = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r'(src|srcset|action)="(?!data:)', shown)
    assert set(re.findall(r'href="(https?://[^/"]*)', shown)) <= {"https://arxiv.org"}
    assert not re.search(r"url\(|@import", shown)
    assert str(folder) not in page
    assert "default-src 'none'" in html.unescape(page)
    assert (folder / "study.html").stat().st_size < 3e6


# ---- escaping -----------------------------------------------------------------------------------


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    out = write_sample_study(tmp_path, small_study(), fail=1)
    rows = read_table(out)
    for row in rows:
        hostile = {"data.name": HOSTILE if row["defense"] == "none" else row["data.name"]}
        row.update({**hostile, "adaptive_warnings": HOSTILE, "versions": json.dumps({"fedsim": HOSTILE})})
        if row["defense"] is not None:
            row["defenses.0.name"] = row["defense"] = HOSTILE if row["defense"] != "none" else "none"
    write_table(rows, out)
    page = write_page(out, name=HOSTILE, about=HOSTILE).read_text(encoding="utf-8")
    assert "<b onmouseover" not in page
    assert "49" not in re.findall(r"<h1>(.*?)</h1>", page)[0]
    assert page.count("</script>") == page.count("<script") == 4
    data = embedded(page, "data")
    assert data["name"] == HOSTILE
    assert HOSTILE in str(data["tables"]["rows"]["columns"]["data.name"])


@given(st.text())
def test_json_in_a_script_element_comes_back_and_cannot_end_it(text: str) -> None:
    found = str(script_json({"text": text}))
    assert not set(found) & set("<>&\u2028\u2029")
    assert json.loads(found) == {"text": text}


def test_the_library_cannot_end_its_element() -> None:
    assert "</script" not in library().lower()
    assert "<!--" not in library()


# ---- figures ------------------------------------------------------------------------------------


def test_every_figure_is_there_in_every_format_and_linked(folder: Path, page: str) -> None:
    found = {path.name for path in (folder / "figures").iterdir()}
    assert found == {f"{name}.{end}" for name in ("tradeoff", "strength", "rounds") for end in MAGIC}
    for name in found:
        content = (folder / "figures" / name).read_bytes()
        assert content.startswith(MAGIC[name.rpartition(".")[2]])
        assert len(content) > 5000
        assert f'href="figures/{name}"' in page
    svg = (folder / "figures" / "tradeoff.svg").read_text(encoding="utf-8")
    assert "fashion_mnist · dirichlet, alpha 0.3" in svg
    assert not re.search(r"#0b0b0|#0[1-8]0[1-8]0[1-8]|var\(", svg)


def test_plots_are_vega_lite_and_share_their_data(page: str) -> None:
    plots, data = embedded(page, "plots"), embedded(page, "data")
    assert len([key for key in plots["plots"] if key.startswith("tradeoff")]) == 4
    assert len([key for key in plots["plots"] if key.startswith("strength")]) == 12
    assert len(plots["specs"]) == 1 + 3 + 1
    for spec in plots["specs"].values():
        alt.Chart.from_dict(spec).to_dict()
        assert '"values"' not in json.dumps(spec)
    assert set(data["sets"]) == {"points", "steps", "curves", "ends"}
    assert data["sets"]["points"]["size"] == 2 * 2 * (1 + 3 * 3) * 2
    assert "var(--series-0)" in json.dumps(plots)


def test_seeds_are_pooled_over_images(content: Content) -> None:
    for point in content.points:
        clients = [content.store.values(row, point.attacker) for row in point.rows]
        images = [value for by_client in clients for values in by_client.values() for value in values]
        assert point.leakage == pytest.approx(np.mean(images))
        assert point.n == len(images) == len(TRUTHS) * len(point.seeds)
        assert point.quality == pytest.approx(np.mean([row["accuracy"] for row in point.rows]))
        assert point.low is not None
        assert point.high is not None
        assert point.low <= point.leakage <= point.high
        assert point.blind == BLIND


def test_a_front_point_of_the_page_is_one_of_the_plot(content: Content) -> None:
    words = content.figures.tradeoff[0].words
    assert words.startswith("Nothing beats, if the attacker knows the defence: noising std = 1 (SSIM 0.")
    assert "Nothing beats, if the attacker ignores the defence" in words


def test_few_pictures_of_the_same_image_tell_the_story(page: str, content: Content) -> None:
    for album in page.split('<div class="album"')[1:]:
        strip = album.split("</table>")[0]
        assert strip.count("data:image/png") == 1 + 2 * 4  # truth; two attackers, no defence and 3 strengths
        assert 'class="leaked"' in strip
    per_strength = len(content.layout.panels) * 2
    assert per_strength <= MOST


def test_without_pictures_the_section_says_so(tmp_path: Path) -> None:
    out = write_sample_study(tmp_path, small_study(keep="figures"), pictures=False)
    page = write_page(out).read_text(encoding="utf-8")
    assert "No pictures were kept" in page
    assert "data:image/png" not in page
    assert "No defence of this study makes a differential privacy promise" in page
    assert f"<h1>{tmp_path.name}</h1>" in page


# ---- settings and series ------------------------------------------------------------------------


def test_defences_without_a_scale_are_told_by_what_leaked(tmp_path: Path) -> None:
    quantizing = {"defenses.0.name": ["quantizing"], "defenses.0.dtype": ["fp16", "int8"]}
    chain = {
        "defenses": [[{"name": "clipping", "norm": 1.0}, {"name": "noising"}]],
        "defenses.1.std": [0.01, 1.0],
    }
    study = small_study(grids=({"defenses": [[]]}, quantizing, chain))
    out = write_sample_study(tmp_path, study, attacks=("idlg", "dlg"))
    page = html.unescape(write_page(out).read_text(encoding="utf-8"))
    assert (
        "Quantizing: to the one who knows it leaked 8 of 8 images at dtype = fp16 and 8 of 8 images" in page
    )
    assert re.search(
        "No strength of clipping [+] noising that was tried keeps the images from [^,.]*[.]", page
    )
    assert "Clipping + noising, in both settings: std = 0.01 keeps images" in page
    assert "noising std = 1" in page
    assert "clipping norm" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_a_study_without_attacks_still_has_a_page(tmp_path: Path) -> None:
    out = write_sample_study(tmp_path, small_study(), attacks=())
    page = write_page(out, name="trained").read_text(encoding="utf-8")
    assert re.search(
        r"Nothing was attacked in this study: test accuracy of \d+\.\d% to \d+\.\d% over 3 cells\.", page
    )
    assert 'id="rounds"' in page
    table = page.split('data-table="rows"')[1].split("</table>")[0]
    assert table.count("<tr data-series") == 3
    assert "Test accuracy" in table
    assert "Leaked" not in table
    assert 'id="tradeoff"' not in page


def test_a_study_of_which_nothing_finished_lists_why(tmp_path: Path) -> None:
    out = write_sample_study(tmp_path, small_study(), fail=3)
    page = write_page(out).read_text(encoding="utf-8")
    assert page.count("worker died &lt;twice&gt;") == 3
    assert "No cell has finished." in page


def test_models_without_an_accuracy_are_judged_by_their_loss(tmp_path: Path) -> None:
    out = write_sample_study(tmp_path, small_study())
    rows = read_table(out)
    write_table([{**row, "accuracy": None} for row in rows], out)
    page = write_page(out).read_text(encoding="utf-8")
    assert "Held-out loss against leakage" in page
    assert '"reverse":true' in page


def test_a_single_step_tells_no_accuracy(tmp_path: Path) -> None:
    out = write_sample_study(tmp_path, small_study())
    rows = [{**row, "training.algorithm": "fedsgd", "rounds": 1} for row in read_table(out)]
    assert all(row["accuracy"] is not None for row in rows)
    write_page(out)
    write_table(rows, out)
    page = write_page(out).read_text(encoding="utf-8")
    assert {path.stem for path in (out / "figures").iterdir()} == {"strength"}
    assert "took a single step, which teaches a model nothing yet: accuracy is left out" in page
    assert "of accuracy" not in page
    assert 'id="strength"' in page
    assert 'id="tradeoff"' not in page
    assert 'id="rounds"' not in page
    assert all(one.accuracy is None for one in fedsim.thresholds(out))
    assert "accuracy" not in threshold_markdown(fedsim.thresholds(out))
    several = [{**row, "rounds": 2} for row in rows]
    write_table(several, out)
    assert "single step" not in write_page(out).read_text(encoding="utf-8")
    assert "accuracy" in threshold_markdown(fedsim.thresholds(out))
    assert "accuracy" in threshold_text(fedsim.thresholds(out))


def test_clients_beside_defended_ones_are_no_undefended_federation(tmp_path: Path) -> None:
    out = write_sample_study(tmp_path, small_study())
    rows = read_table(out)
    beside = [{**row, "defense": "none"} for row in rows if row.get("defenses.0.p") == 0.9]
    write_table(rows + beside, out)
    content = read_content(out)
    told = {point.defended.strength for point in content.points if point.defended.series == "no defence"}
    assert told == {"", "beside masking"}
    page = write_page(out).read_text(encoding="utf-8")
    assert "Without a defence 4 of 4 images leaked" in page


def test_without_a_baseline_there_is_no_threshold(tmp_path: Path) -> None:
    out = write_sample_study(tmp_path, small_study())
    write_table([{**row, "blind_ssim_affine_p99": None} for row in read_table(out)], out)
    page = write_page(out).read_text(encoding="utf-8")
    assert "No defence was tried at two strengths or more against a known bound" in page
    assert 'id="tradeoff"' in page
    assert 'id="strength"' not in page


def test_report_writes_the_page_again_under_its_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "study.html").read_bytes()
    (folder / "study.html").unlink()
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "study.html")
    assert (folder / "study.html").read_bytes() == before


def test_a_folder_without_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no results\.parquet"):
        write_page(tmp_path)


def test_promises_of_a_study_that_attacks_nothing_are_told(tmp_path: Path) -> None:
    noise = {"defenses.0.name": ["noising"], "defenses.0.std": [0.1, 1.0]}
    out = write_sample_study(
        tmp_path, small_study(grids=({"defenses": [[]]}, noise)), attacks=(), privacy=True
    )
    page = html.unescape(write_page(out, name="trained").read_text(encoding="utf-8"))
    assert "No defence of this study makes" not in page
    promised = page.split('data-table="promises"')[1].split("</table>")[0]
    noisy = read_table(out)[1:]
    assert len({row["accuracy"] for row in noisy}) == promised.count("<tr data-series=") / 2 == 2
    assert all(promised.count(f">{100 * row['accuracy']:.1f}%<") == 2 for row in noisy)
    assert "Defences, each beside none: noising (std = 0.1, 1)." in page


def test_of_several_seeds_the_weakest_promise_counts() -> None:
    rows = [
        {"privacy": json.dumps([{"against": "server", "protects": "client", "epsilon": epsilon}])}
        for epsilon in (5.0, None, 10.0)
    ]
    assert [one["epsilon"] for one in weakest(rows)] == [None]
    assert [one["epsilon"] for one in weakest([rows[0], rows[2]])] == [10.0]
