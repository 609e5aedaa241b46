"""The works that plug-ins stand on, by the short citation (authors and year) that their entries carry."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_KEY = re.compile(r".*?\b(?:19|20)\d\d\b(?!\.)")
_ARXIV = re.compile(r"arXiv[: ](\d{4}\.\d{4,5})")


@dataclass(frozen=True)
class Paper:
    """A title, where it appeared if it is not on arXiv, and its number there."""

    title: str
    arxiv: str = ""
    venue: str = ""


def references(citation: str) -> Iterator[tuple[str, str]]:
    """Yield each work of a citation in full, with its address (empty where it is not on arXiv).

    `citation` is one or more of "authors year[, whatever else]", divided by semicolons. What is not in
    `PAPERS`, of a plug-in of the user's own, is yielded as it stands; an arXiv number in it is its address.
    """
    for part in _parts(citation):
        key, paper = _paper(part)
        if paper is None:
            number = _ARXIV.search(part)
            yield part, _address(number[1] if number else "")
        else:
            yield ", ".join(filter(None, (key, paper.title, paper.venue))), _address(paper.arxiv)


def brief(citation: str) -> str:
    """Return a citation for running text: as it stands, with the arXiv numbers of the works."""
    return "; ".join(map(_numbered, _parts(citation)))


def _numbered(part: str) -> str:
    key, paper = _paper(part)
    number = f", arXiv {paper.arxiv}" if paper and paper.arxiv else ""
    return f"{key}{number}{part[len(key) :]}"


def _parts(citation: str) -> list[str]:
    return [part for part in citation.split("; ") if part]


def _paper(part: str) -> tuple[str, Paper | None]:
    """Return authors and year, and what is known by them."""
    found = _KEY.match(part)
    key = found[0] if found else ""
    return key, PAPERS.get(key)


def _address(arxiv: str) -> str:
    return f"https://arxiv.org/abs/{arxiv}" if arxiv else ""


PAPERS = {
    # Federated learning
    "Beutel et al. 2020": Paper("Flower: A Friendly Federated Learning Research Framework", "2007.14390"),
    "McMahan et al. 2017": Paper(
        "Communication-Efficient Learning of Deep Networks from Decentralized Data", "1602.05629"
    ),
    "Hsu, Qi & Brown 2019": Paper(
        "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
        "1909.06335",
    ),
    "Yurochkin et al. 2019": Paper(
        "Bayesian Nonparametric Federated Learning of Neural Networks", "1905.12022"
    ),
    "Q. Li et al. 2022": Paper(
        "Federated Learning on Non-IID Data Silos: An Experimental Study", "2102.02079"
    ),
    "Caldas et al. 2018": Paper("LEAF: A Benchmark for Federated Settings", "1812.01097"),
    "Reddi et al. 2021": Paper("Adaptive Federated Optimization", "2003.00295"),
    "Yin et al. 2018": Paper(
        "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", "1803.01498"
    ),
    "T. Li, Sahu et al. 2020": Paper("Federated Optimization in Heterogeneous Networks", "1812.06127"),
    "T. Li, Sanjabi et al. 2020": Paper("Fair Resource Allocation in Federated Learning", "1905.10497"),
    "Blanchard et al. 2017": Paper(
        "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", venue="NeurIPS"
    ),
    "El Mhamdi et al. 2018": Paper(
        "The Hidden Vulnerability of Distributed Learning in Byzantium", "1802.07927"
    ),
    # Defences
    "Kim & Park 2024": Paper(
        "Random Gradient Masking as a Defensive Measure to Deep Leakage in Federated Learning", "2408.08430"
    ),
    "McMahan et al. 2018": Paper("Learning Differentially Private Recurrent Language Models", "1710.06963"),
    "Andrew et al. 2021": Paper("Differentially Private Learning with Adaptive Clipping", "1905.03871"),
    "Abadi et al. 2016": Paper("Deep Learning with Differential Privacy", "1607.00133"),
    "Dwork & Roth 2014": Paper("The Algorithmic Foundations of Differential Privacy", venue="FnT TCS 9"),
    # Attacks
    "Zhu, Liu & Han 2019": Paper("Deep Leakage from Gradients", "1906.08935"),
    "Zhao, Mopuri & Bilen 2020": Paper("iDLG: Improved Deep Leakage from Gradients", "2001.02610"),
    "Geiping et al. 2020": Paper(
        "Inverting Gradients - How Easy Is It to Break Privacy in Federated Learning?", "2003.14053"
    ),
    "Yin et al. 2021": Paper("See through Gradients: Image Batch Recovery via GradInversion", "2104.07586"),
    "Dimitrov et al. 2022": Paper("Data Leakage in Federated Averaging", "2206.12395"),
    "Zhu, Yao & Blaschko 2023": Paper(
        "Surrogate Model Extension (SME): A Fast and Accurate Weight Update Attack on Federated Learning",
        "2306.00127",
    ),
    "Jeon et al. 2021": Paper("Gradient Inversion with Generative Image Prior", "2110.14962"),
    "Fowl et al. 2022": Paper(
        "Robbing the Fed: Directly Obtaining Private Data in Federated Learning with Modified Models",
        "2110.13057",
    ),
    "Zhu & Blaschko 2021": Paper("R-GAP: Recursive Gradient Attack on Privacy", "2010.07733"),
    "Dimitrov et al. 2024": Paper(
        "SPEAR: Exact Gradient Inversion of Batches in Federated Learning", "2403.03945"
    ),
    "Liu et al. 2025": Paper(
        "Mjolnir: Breaking the Shield of Perturbation-Protected Gradients via Adaptive Diffusion",
        "2407.05285",
    ),
    "Huang, Hong, Chen & Roos 2024": Paper("Gradient Inversion of Federated Diffusion Models", "2405.20380"),
    "Croce & Hein 2020": Paper(
        "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks",
        "2003.01690",
    ),
    # Models and their tasks
    "He et al. 2016": Paper("Deep Residual Learning for Image Recognition", "1512.03385"),
    "Dosovitskiy et al. 2021": Paper(
        "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", "2010.11929"
    ),
    "Ho, Jain & Abbeel 2020": Paper("Denoising Diffusion Probabilistic Models", "2006.11239"),
    "Song, Meng & Ermon 2021": Paper("Denoising Diffusion Implicit Models", "2010.02502"),
    "Peebles & Xie 2023": Paper("Scalable Diffusion Models with Transformers", "2212.09748"),
    # Data
    "Xiao, Rasul & Vollgraf 2017": Paper(
        "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms", "1708.07747"
    ),
    "van der Walt et al. 2014": Paper("scikit-image: Image Processing in Python", venue="PeerJ 2"),
    "LeCun et al. 1998": Paper(
        "Gradient-Based Learning Applied to Document Recognition", venue="Proceedings of the IEEE 86"
    ),
    "Clanuwat et al. 2018": Paper("Deep Learning for Classical Japanese Literature", "1812.01718"),
    "Cohen et al. 2017": Paper("EMNIST: an Extension of MNIST to Handwritten Letters", "1702.05373"),
    "Krizhevsky 2009": Paper(
        "Learning Multiple Layers of Features from Tiny Images", venue="University of Toronto"
    ),
    "Netzer et al. 2011": Paper(
        "Reading Digits in Natural Images with Unsupervised Feature Learning", venue="NIPS workshop"
    ),
    "Coates, Ng & Lee 2011": Paper(
        "An Analysis of Single-Layer Networks in Unsupervised Feature Learning", venue="AISTATS"
    ),
    "G. B. Huang et al. 2007": Paper(
        "Labeled Faces in the Wild: A Database for Studying Face Recognition in Unconstrained Environments",
        venue="University of Massachusetts, Amherst",
    ),
    "Liu et al. 2015": Paper("Deep Learning Face Attributes in the Wild", "1411.7766"),
    # Measures
    "Wang et al. 2004": Paper(
        "Image Quality Assessment: From Error Visibility to Structural Similarity", venue="IEEE TIP 13"
    ),
    "Binkowski et al. 2018": Paper("Demystifying MMD GANs", "1801.01401"),
    "Barlow et al. 1972": Paper("Statistical Inference under Order Restrictions", venue="Wiley"),
    "Efron 1987": Paper("Better Bootstrap Confidence Intervals", venue="JASA 82"),
    "Wilson 1927": Paper(
        "Probable Inference, the Law of Succession, and Statistical Inference", venue="JASA 22"
    ),
}
"""Built-in plug-ins cite nothing that is not here."""
