import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sample_run import MASKING, P99, png, sample_images, write_sample_run

from fedsim.data import load_dataset
from fedsim.errors import InputError
from fedsim.report import contact_sheet, write_report
from fedsim.report.folder import read_run
from fedsim.report.gallery import COLUMNS, STRIPS, panels

VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """Tags that do not close, and whatever a browser would fetch or run."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open += [] if tag in VOID else [tag]
        for name, value in attrs:
            if name in {"src", "srcset", "poster", "data"} or (name == "href" and tag != "a"):
                self.loads.append(str(value))
            assert not name.startswith("on"), f"{tag} has a script in {name}"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(folder: Path) -> Page:
    page = Page(write_report(folder).read_text())
    assert page.open == []
    return page


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels, _ = load_dataset("fashion_mnist", {}, seed=1).test.batch(range(20))
    images = (255 * pixels[:, 0]).round().byte().numpy()
    return write_sample_run(tmp_path_factory.mktemp("report") / "run", images)


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return page_of(run)


def edit(folder: Path, file: str, /, **changes: Any) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_sample_run(tmp_path / "run", sample_images(4), rounds=2)


def test_the_page_fetches_and_runs_nothing(page: Page) -> None:
    assert page.loads
    assert all(address.startswith("data:") for address in page.loads)
    assert "script" not in {tag for tag, _ in page.tags}


def test_the_style_fetches_nothing(run: Path) -> None:
    style = re.search(r"<style>(.*?)</style>", write_report(run).read_text(), re.S)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_the_verdict_counts(page: Page) -> None:
    assert "The server could read 10 of 10 images that no defence protected." in page.text
    assert "Masking stopped the naive attacker, not the adaptive one" in page.text


def test_every_picture_is_shown_unchanged(run: Path, page: Page) -> None:
    import base64

    shown = {src for tag, attrs in page.tags if tag == "img" and (src := attrs["src"])}
    stored = {
        "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        for path in (run / "reconstructions").glob("*.png")
    }
    assert shown == stored


def test_every_number_has_n_interval_privileges_and_the_blind_guess(page: Page) -> None:
    for words in (
        "10 of 10",
        "72 to 100%",
        "0 to 28%",
        "n = 10",
        "10 stalled",
        "0.21",
        "privileges: updates",
    ):
        assert words in page.text
    assert f"SSIM above {P99}" in page.text


def test_promises_stand_beside_what_was_measured(small: Path) -> None:
    assert "What the noise promises" not in write_report(small).read_text(encoding="utf-8")
    server = {
        "against": "server",
        "protects": "client",
        "delta": 1e-5,
        "epsilon": 21.96,
        "adjacency": "replaced",
    }
    models = {"against": "models", "protects": "client", "delta": 1e-5, "epsilon": None, "reason": "<no> sum"}
    edit(small, "summary.json", privacy=[server | {"reason": ""}, models | {"adjacency": None}])
    text = write_report(small).read_text(encoding="utf-8")
    told = text[text.index("What the noise promises") :]
    for word in ("the server", "neighbours: replaced", "<td>22</td>", "<td>1e-05</td>", "&lt;no&gt; sum"):
        assert word in told


def test_colours_follow_the_page(run: Path) -> None:
    html = write_report(run).read_text()
    drawings = re.findall(r"<svg.*?</svg>", html, re.S)
    assert len(drawings) == 2 * 5
    fixed = [color for svg in drawings for color in re.findall(r'(?:fill|stroke)="(#[^"]+)"', svg)]
    assert fixed == []


def test_text_of_the_user_is_never_markup(small: Path) -> None:
    evil = "<script>alert(1)</script>"
    edit(small, "clients.json", classes=[evil] * 10, note=evil, cohorts=[evil, "none"] * 15)
    edit(small, "summary.json", name=evil, refused=[{"attack": evil, "reason": evil}])
    page = page_of(small)
    assert "script" not in {tag for tag, _ in page.tags}
    assert evil in page.text


@pytest.mark.parametrize(
    "missing", ["summary.json", "rounds.jsonl", "scores.jsonl", "clients.json", "reconstructions"]
)
def test_a_missing_part_leaves_a_page(small: Path, missing: str) -> None:
    path = small / missing
    for file in path.iterdir() if path.is_dir() else [path]:
        file.unlink()
    page = page_of(small)
    assert ("This run did not finish: 2 of 40 rounds are here." in page.text) == (missing == "summary.json")


def test_a_bare_scenario_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "scenario.toml").write_text("")
    assert "This run did not finish: 0 rounds are here." in page_of(tmp_path).text


def test_a_run_without_attacks(small: Path) -> None:
    edit(small, "summary.json", leakage=[])
    (small / "scores.jsonl").write_text("")
    page = page_of(small)
    assert "No image was attacked in this run" in page.text
    assert "What leaked" not in page.text


def test_captures_of_a_foreign_app_without_the_truth(small: Path) -> None:
    keys = ("ssim", "ssim_affine", "psnr", "mse", "leaked", "identified", "blind", "label", "truth_picture")
    rows = [json.loads(line) for line in (small / "scores.jsonl").read_text().splitlines()]
    rows = [row | dict.fromkeys(keys) for row in rows]
    (small / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    leakage = json.loads((small / "summary.json").read_text())["leakage"]
    empty = dict.fromkeys(("ssim", "ssim_affine", "psnr", "mse", "leaked", "identified", "labels"))
    edit(small, "summary.json", leakage=[row | empty for row in leakage], accuracy=None, baseline=None)
    (small / "clients.json").unlink()
    page = page_of(small)
    assert "without the truth beside them none could be scored" in page.text
    assert sum(tag == "img" for tag, _ in page.tags) == 6


def test_an_attack_that_died_is_counted(small: Path) -> None:
    dead = {
        "capture": "round-0001-client-00001",
        "round": 1,
        "client": 1,
        "attack": "idlg",
        "adaptive": False,
    }
    dead |= {
        "defense": "none",
        "status": "failed",
        "reason": "killed twice",
        "ssim": None,
        "ssim_affine": None,
    }
    with (small / "scores.jsonl").open("a") as file:
        file.write(json.dumps(dead) + "\n")
    page = page_of(small)
    assert "killed twice" in page.text
    assert "1 failed" in page.text


def test_a_row_cut_short_is_left_out_and_a_broken_one_refused(small: Path) -> None:
    rounds = small / "rounds.jsonl"
    whole = rounds.read_text()
    rounds.write_text(whole + '{"round": 3, "accu')
    assert [row["round"] for row in read_run(small).rounds] == [0, 1, 2]
    rounds.write_text("oops\n" + whole)
    with pytest.raises(InputError, match=r"rounds\.jsonl: line 1 is not a JSON object"):
        read_run(small)


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("scenario.toml", "= 1", r"scenario\.toml: not TOML"),
        ("summary.json", "{", r"summary\.json: not JSON"),
        ("summary.json", "[]", r"summary\.json: allowed: one JSON object, not a list"),
    ],
)
def test_a_broken_file_is_one_line(small: Path, name: str, text: str, error: str) -> None:
    (small / name).write_text(text)
    with pytest.raises(InputError, match=error) as caught:
        write_report(small)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        write_report(tmp_path)


def test_pictures_outside_the_folder_are_not_read(small: Path) -> None:
    (small.parent / "secret.png").write_bytes(png(np.zeros((4, 4), dtype=np.uint8)))
    (small / "notes.png").write_text("not a picture")
    run = read_run(small)
    assert run.picture("../secret.png") is None
    assert run.picture(str(small.parent / "secret.png")) is None
    assert run.picture("notes.png") is None
    assert run.picture("reconstructions/none.png") is None


def test_an_image_stays_in_its_column(run: Path) -> None:
    undefended, masked = panels(read_run(run))
    assert (undefended.title, masked.title) == ("No defence", MASKING)
    truth, naive, adaptive = masked.strips[0].lines
    heads = masked.strips[0].heads
    for column, head in enumerate(heads):
        client = int(re.findall(r"client (\d+)", head)[0])
        for line, kind in ((truth, "truth"), (naive, "idlg-naive"), (adaptive, "idlg-adaptive")):
            stored = run / f"reconstructions/round-0001-client-{client:05d}-{kind}.png"
            picture = line.pictures[column]
            assert picture
            assert picture.png == stored.read_bytes()


def test_defences_over_the_same_images_share_a_panel(small: Path) -> None:
    rows = [json.loads(line) for line in (small / "scores.jsonl").read_text().splitlines()]
    plain = [row for row in rows if row["defense"] == "none"]
    rows = plain + [row | {"defense": MASKING, "adaptive": True} for row in plain]
    (small / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (panel,) = panels(read_run(small))
    assert panel.title == f"No defence, {MASKING}"
    assert [line.details[-1] for line in panel.strips[0].lines] == [
        "the client's image",
        "no defence",
        "adapts to the defence",
    ]


def test_many_images_are_cut_and_counted(small: Path) -> None:
    row = json.loads((small / "scores.jsonl").read_text().splitlines()[0])
    rows = [row | {"index": index} for index in range(COLUMNS * STRIPS + 7)]
    (small / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "7 further images" in page_of(small).text


def test_many_clients_and_classes_are_cut_and_said(small: Path) -> None:
    counts = np.random.default_rng(0).integers(0, 9, (300, 100)).tolist()
    edit(small, "clients.json", counts=counts, classes=[f"kind {i}" for i in range(100)], cohorts=[])
    text = page_of(small).text
    assert "The first 50 of 300 clients." in text
    assert "The 20 most frequent of 100 labels." in text


def test_contact_sheet_enlarges_by_a_whole_factor(run: Path) -> None:
    with Image.open(contact_sheet(run)) as sheet:
        pixels = np.asarray(sheet.convert("L"))
    truth = np.asarray(Image.open(run / "reconstructions/round-0001-client-00000-truth.png"))
    large = truth.repeat(4, axis=0).repeat(4, axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, large.shape)
    assert (windows[24, 270:280] == large).all(axis=(1, 2)).any()


def test_contact_sheet_without_pictures_is_refused(small: Path) -> None:
    (small / "scores.jsonl").write_text("")
    with pytest.raises(InputError, match="no reconstructions to show"):
        contact_sheet(small)
