"""Attacks: `capture -> reconstruction`, one file and one dataclass each."""

from fedsim.registry import Entry, Registry

ATTACKS = Registry(
    "attack",
    Entry(
        "auto",
        "adversary.attacks.auto:Auto",
        "what suits the upload, the strongest per capture within a budget: for those who do not choose",
        "Croce & Hein 2020, for the idea",
    ),
    Entry(
        "dlg",
        "adversary.attacks.dlg:DLG",
        "match the gradient by L-BFGS over images and labels together",
        "Zhu, Liu & Han 2019",
    ),
    Entry(
        "idlg",
        "adversary.attacks.idlg:IDLG",
        "read the label off the classifier's gradient, then match by L-BFGS over the image",
        "Zhao, Mopuri & Bilen 2020",
    ),
    Entry(
        "inverting",
        "adversary.attacks.inverting:InvertingGradients",
        "match the gradient's direction under total variation, by signed Adam or L-BFGS",
        "Geiping et al. 2020",
    ),
    Entry(
        "gradinversion",
        "adversary.attacks.gradinversion:GradInversion",
        "match the gradient and the BatchNorm statistics, from several seeds that pull on each other",
        "Yin et al. 2021",
    ),
    Entry(
        "local_steps",
        "adversary.attacks.local_steps:LocalSteps",
        "unroll the client's local steps and match the difference of weights",
        "Geiping et al. 2020, section 5",
    ),
    Entry(
        "epoch_invariant",
        "adversary.attacks.epoch_invariant:EpochInvariant",
        "unroll with separate images in each epoch, tied by what no order changes",
        "Dimitrov et al. 2022",
    ),
    Entry(
        "sme",
        "adversary.attacks.sme:SME",
        "match one gradient at a point between the global weights and the client's",
        "Zhu, Yao & Blaschko 2023",
    ),
    Entry(
        "generative",
        "adversary.attacks.generative:Generative",
        "search the latent codes of a generator that is handed in",
        "Jeon et al. 2021",
    ),
    Entry(
        "imprint",
        "adversary.attacks.imprint:ImprintAttack",
        "read the images off the gradient of an imprint block that a malicious server sent",
        "Fowl et al. 2022",
    ),
    Entry(
        "analytic",
        "adversary.attacks.analytic:Analytic",
        "the exact input of a fully connected first layer, by the quotient of its gradients",
        "Geiping et al. 2020, proposition 3.1",
    ),
    Entry(
        "rgap",
        "adversary.attacks.rgap:RGAP",
        "solve for each layer's input by least squares, from the classifier down to the image",
        "Zhu & Blaschko 2021",
    ),
    Entry(
        "spear",
        "adversary.attacks.spear:Spear",
        "the exact batch behind a fully connected first layer with ReLU, by the zeros of its gradient",
        "Dimitrov et al. 2024",
    ),
    Entry(
        "mjolnir",
        "adversary.attacks.mjolnir:Mjolnir",
        "denoise the gradient with a diffusion model of surrogate gradients, then hand it to another attack",
        "Liu et al. 2025",
    ),
    Entry(
        "gidm",
        "adversary.attacks.gidm:GIDM",
        "diffusion models: search a trained model's latents, then the pixels; timesteps and noise granted",
        "Huang, Hong, Chen & Roos 2024",
    ),
    Entry(
        "gidm_plus",
        "adversary.attacks.gidm_plus:GIDMPlus",
        "diffusion models: solve for timestep, noisy image and target; neither timestep nor noise known",
        "Huang, Hong, Chen & Roos 2024, for the setting, not the method",
    ),
)
