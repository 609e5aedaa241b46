import pytest

from fedsim.papers import PAPERS, brief, references
from fedsim.report.citations import DDIM, FLOWER, KERNEL_DISTANCE, SSIM
from fedsim.scenario.plugins import REGISTRIES, registry
from fedsim.studies.page.methods import INTERVALS, THRESHOLDS

CITED = {
    f"{kind} {entry.name}": entry.paper
    for kind in REGISTRIES
    for entry in registry(kind)
    if entry.paper and entry.name != "torchvision"
}
ALSO = {name: name for name in (DDIM, FLOWER, KERNEL_DISTANCE, SSIM, INTERVALS, THRESHOLDS)}


@pytest.mark.parametrize("citation", [*CITED.values(), *ALSO], ids=[*CITED, *ALSO])
def test_what_is_cited_is_known_in_full(citation: str) -> None:
    titles = [text for text, _ in references(citation)]
    assert len(titles) == len(citation.split("; "))
    for text in titles:
        key = max((key for key in PAPERS if text.startswith(key)), key=len)
        assert PAPERS[key].title in text


def test_every_work_is_cited_somewhere_and_can_be_found() -> None:
    text = " ".join([*CITED.values(), *ALSO])
    assert [key for key in PAPERS if key not in text] == []
    assert [key for key, paper in PAPERS.items() if not (paper.arxiv or paper.venue)] == []
    assert len({paper.arxiv or paper.title for paper in PAPERS.values()}) == len(PAPERS)


def test_a_reference_has_title_and_address() -> None:
    assert list(references("Dimitrov et al. 2022, section 5; Wilson 1927")) == [
        (
            "Dimitrov et al. 2022, Data Leakage in Federated Averaging",
            "https://arxiv.org/abs/2206.12395",
        ),
        ("Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference, JASA 22", ""),
    ]


def test_a_work_that_is_not_known_stands_as_it_is() -> None:
    assert list(references("Doe 2031, Ours, arXiv 3101.00001; a talk")) == [
        ("Doe 2031, Ours, arXiv 3101.00001", "https://arxiv.org/abs/3101.00001"),
        ("a talk", ""),
    ]
    assert list(references("")) == []


def test_running_text_has_the_number() -> None:
    assert brief("Zhao, Mopuri & Bilen 2020") == "Zhao, Mopuri & Bilen 2020, arXiv 2001.02610"
    assert brief("Geiping et al. 2020, section 5; Doe 2031; a talk") == (
        "Geiping et al. 2020, arXiv 2003.14053, section 5; Doe 2031; a talk"
    )
