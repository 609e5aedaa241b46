"""Models by name. A factory is `factory(input_shape, num_classes, *, option=...) -> nn.Module`.

Options that every model takes (`norm`, `mean`, `std`) are applied by `fedsim.models.build`. Denoisers
get 0 for `num_classes`.
"""

from fedsim.registry import Entry, Registry

MODELS = Registry(
    "model",
    Entry(
        "lenet",
        "fedsim.models.lenet:lenet",
        "LeNet with sigmoid, weights and biases U(-0.5, 0.5): the network that DLG attacks",
        "Zhu, Liu & Han 2019",
    ),
    Entry(
        "convnet",
        "fedsim.models.convnet:convnet",
        "eight convolutions with BatchNorm, the network of Inverting Gradients",
        "Geiping et al. 2020",
    ),
    Entry(
        "cnn",
        "fedsim.models.cnn:cnn",
        "two convolutions and a hidden layer, the CNN of federated averaging",
        "McMahan et al. 2017",
    ),
    Entry(
        "mlp",
        "fedsim.models.mlp:mlp",
        "fully connected layers, the 2NN of federated averaging",
        "McMahan et al. 2017",
    ),
    Entry(
        "resnet20",
        "fedsim.models.resnet:resnet20",
        "ResNet-20 for CIFAR; with sigmoid and without strides as in DLG",
        "He et al. 2016",
    ),
    Entry(
        "resnet56",
        "fedsim.models.resnet:resnet56",
        "ResNet-56 for CIFAR; with sigmoid and without strides as in DLG",
        "He et al. 2016",
    ),
    Entry(
        "resnet18",
        "fedsim.models.resnet:resnet18",
        "ResNet-18 with the CIFAR stem (3x3, no max pooling)",
        "He et al. 2016",
    ),
    Entry(
        "vit",
        "fedsim.models.vit:vit",
        "a small vision transformer with plain, twice differentiable attention",
        "Dosovitskiy et al. 2021",
    ),
    Entry(
        "torchvision",
        "fedsim.models.zoo:torchvision_model",
        "any name of torchvision.models, untrained: torchvision:NAME",
        "torchvision",
    ),
    Entry(
        "unet",
        "fedsim.models.unet:unet",
        "of the task diffusion: the U-Net of denoising diffusion, by diffusers",
        "Ho, Jain & Abbeel 2020",
    ),
    Entry(
        "dit",
        "fedsim.models.dit:dit",
        "of the task diffusion: a transformer over patches, by diffusers",
        "Peebles & Xie 2023",
    ),
)

DENOISERS = frozenset({"unet", "dit"})
"""The models of the task diffusion: they take noisy images and timesteps. All others are classifiers."""
