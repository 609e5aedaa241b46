"""Attacks: `capture -> reconstruction`, one file and one dataclass each."""

from fedsim.registry import Entry, Registry

ATTACKS = Registry(
    "attack",
    Entry(
        "auto",
        "adversary.attacks.auto:Auto",
        "what suits the upload, the strongest per capture within a budget: for those who do not choose",
        "after Croce & Hein 2020, AutoAttack, arXiv 2003.01690",
    ),
    Entry(
        "dlg",
        "adversary.attacks.dlg:DLG",
        "match the gradient by L-BFGS over images and labels together",
        "Zhu, Liu & Han 2019, arXiv 1906.08935",
    ),
    Entry(
        "idlg",
        "adversary.attacks.idlg:IDLG",
        "read the label off the classifier's gradient, then match by L-BFGS over the image",
        "Zhao, Mopuri & Bilen 2020, arXiv 2001.02610",
    ),
    Entry(
        "inverting",
        "adversary.attacks.inverting:InvertingGradients",
        "match the gradient's direction under total variation, by signed Adam or L-BFGS",
        "Geiping et al. 2020, arXiv 2003.14053",
    ),
    Entry(
        "gradinversion",
        "adversary.attacks.gradinversion:GradInversion",
        "match the gradient and the BatchNorm statistics, from several seeds that pull on each other",
        "Yin et al. 2021, arXiv 2104.07586",
    ),
    Entry(
        "local_steps",
        "adversary.attacks.local_steps:LocalSteps",
        "unroll the client's local steps and match the difference of weights",
        "Geiping et al. 2020, arXiv 2003.14053, section 5",
    ),
    Entry(
        "epoch_invariant",
        "adversary.attacks.epoch_invariant:EpochInvariant",
        "unroll with separate images in each epoch, tied by what no order changes",
        "Dimitrov et al. 2022, TMLR, openreview e7A0B99zJf",
    ),
    Entry(
        "sme",
        "adversary.attacks.sme:SME",
        "match one gradient at a point between the global weights and the client's",
        "Zhu, Yao & Blaschko 2023, ICML, arXiv 2306.00127",
    ),
    Entry(
        "generative",
        "adversary.attacks.generative:Generative",
        "search the latent codes of a generator that is handed in",
        "Jeon et al. 2021, arXiv 2110.14962",
    ),
    Entry(
        "imprint",
        "adversary.attacks.imprint:ImprintAttack",
        "read the images off the gradient of an imprint block that a malicious server sent",
        "Fowl et al. 2022, Robbing the Fed",
    ),
    Entry(
        "analytic",
        "adversary.attacks.analytic:Analytic",
        "the exact input of a fully connected first layer, by the quotient of its gradients",
        "Geiping et al. 2020, arXiv 2003.14053, proposition 3.1",
    ),
    Entry(
        "rgap",
        "adversary.attacks.rgap:RGAP",
        "solve for each layer's input by least squares, from the classifier down to the image",
        "Zhu & Blaschko 2021, arXiv 2010.07733",
    ),
    Entry(
        "spear",
        "adversary.attacks.spear:Spear",
        "the exact batch behind a fully connected first layer with ReLU, by the zeros of its gradient",
        "Dimitrov et al. 2024, arXiv 2403.03945",
    ),
    Entry(
        "mjolnir",
        "adversary.attacks.mjolnir:Mjolnir",
        "denoise the gradient with a diffusion model of surrogate gradients, then hand it to another attack",
        "Liu et al. 2025, Mjolnir, arXiv 2407.05285",
    ),
    Entry(
        "gidm",
        "adversary.attacks.gidm:GIDM",
        "diffusion models: search a trained model's latents, then the pixels; timesteps and noise granted",
        "Huang, Hong, Chen & Roos 2024, arXiv 2405.20380",
    ),
    Entry(
        "gidm_plus",
        "adversary.attacks.gidm_plus:GIDMPlus",
        "diffusion models: solve for timestep, noisy image and target; neither timestep nor noise known",
        "the setting of Huang, Hong, Chen & Roos 2024, arXiv 2405.20380; the method is ours",
    ),
)
