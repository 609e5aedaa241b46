"""Models: what their papers state, second derivatives, seeded weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.models import DENOISERS, MODELS
from fedsim.models.layers import groups
from fedsim.tasks.classification import Classification, ClassificationTask, classification_task
from fedsim.tasks.diffusion import Diffusion

DOC = Path(__file__).parents[2] / "docs" / "models.md"
MNIST, CIFAR, LFW = (1, 28, 28), (3, 32, 32), (3, 62, 47)

# (name, options, shape, classes, parameters): sources in docs/models.md
STATED = [
    ("lenet", {}, MNIST, 10, 13_426),
    ("lenet", {}, CIFAR, 10, 15_826),
    ("lenet", {}, CIFAR, 100, 85_036),
    ("lenet", {}, CIFAR, 5_749, 4_429_117),
    ("convnet", {}, CIFAR, 10, 2_904_970),
    ("cnn", {}, MNIST, 10, 1_663_370),
    ("mlp", {}, MNIST, 10, 199_210),
    ("resnet20", {}, CIFAR, 10, 269_722),
    ("resnet56", {}, CIFAR, 10, 853_018),
    ("resnet18", {}, CIFAR, 10, 11_173_962),
    ("torchvision:resnet18", {}, (3, 64, 64), 1000, 11_689_512),
]

# Small enough to differentiate twice in a moment.
SMALL = [
    ("lenet", {}),
    ("lenet", {"activation": "relu", "init": "torch"}),
    ("convnet", {"width": 4}),
    ("convnet", {"width": 4, "norm": "group"}),
    ("cnn", {"width": 4, "hidden": 16}),
    ("mlp", {"hidden": [16], "activation": "tanh"}),
    ("mlp", {"hidden": []}),
    ("resnet20", {}),
    ("resnet20", {"activation": "sigmoid", "strides": False}),
    ("resnet20", {"norm": "group"}),
    ("resnet56", {"norm": "group"}),
    ("resnet18", {}),
    ("vit", {"dim": 16, "depth": 2, "heads": 2}),
    ("torchvision:resnet18", {"norm": "group", "mean": [0.3], "std": [0.2]}),
]
# The deep ones say nothing that ResNet-20 does not.
DEEP = ("resnet56", "torchvision:resnet18")
WITHOUT_BATCHNORM = [
    (name, options)
    for name, options in SMALL
    if (name in ("lenet", "cnn", "mlp", "vit") or options.get("norm") == "group") and name not in DEEP
]


def ids(value: object) -> str | None:
    if isinstance(value, dict):
        return ",".join(f"{key}={option}" for key, option in value.items()) or "default"
    return value if isinstance(value, str) else None


def small_task(name: str, options: dict, channels: int = 1) -> ClassificationTask:
    return classification_task(name, options, (channels, 16, 16), 5)


def batch(n: int, channels: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, channels, 16, 16, generator=generator), torch.arange(n) % 5


def quiet(model: nn.Module) -> nn.Module:
    """Turn dropout off, which is noise in a comparison of gradients."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


@pytest.mark.parametrize(("name", "options", "shape", "classes", "parameters"), STATED, ids=ids)
def test_parameter_counts_are_those_of_the_sources(name, options, shape, classes, parameters):
    model = classification_task(name, options, shape, classes).build(0)
    assert sum(p.numel() for p in model.parameters()) == parameters
    with torch.no_grad():
        assert model(torch.zeros(2, *shape)).shape == (2, classes)


def test_convnet_has_2304_features_for_cifar():
    model = classification_task("convnet", {}, CIFAR, 10).build(0)
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    assert last.in_features == 2304


def test_dlg_resnet_keeps_its_size_without_strides():
    model = classification_task(
        "resnet56", {"activation": "sigmoid", "strides": False}, (3, 32, 32), 10
    ).build(0)
    sizes = []
    for stage in (model.layer1, model.layer2, model.layer3):
        stage.register_forward_hook(lambda _module, _inputs, output: sizes.append(tuple(output.shape[1:])))
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32))
    assert sizes == [(16, 32, 32), (32, 32, 32), (64, 32, 32)]
    assert not any(isinstance(module, nn.ReLU) for module in model.modules())


def test_every_model_of_the_registry_is_tested_here():
    assert {name.partition(":")[0] for name, _ in SMALL} == set(MODELS.names()) - DENOISERS


@pytest.mark.parametrize("shape", [MNIST, CIFAR, LFW, (1, 5, 9)], ids=str)
def test_lenet_takes_any_size(shape):
    model = classification_task("lenet", {}, shape, 7).build(0)
    assert model(torch.zeros(1, *shape)).shape == (1, 7)


@pytest.mark.parametrize(("name", "options"), SMALL, ids=ids)
def test_gradient_inversion_can_differentiate_twice(name, options):
    task = small_task(name, options)
    model = quiet(task.build(1))
    inputs, labels = batch(2)
    inputs.requires_grad_()
    gradients = torch.autograd.grad(
        task.loss(model, inputs, labels), list(model.parameters()), create_graph=True
    )
    norm = sum((g**2).sum() for g in gradients)
    (second,) = torch.autograd.grad(norm, inputs)
    assert second.isfinite().all()
    assert second.abs().max() > 0


@pytest.mark.parametrize("name", ["lenet", "vit"])
def test_second_derivatives_are_right(name):
    options = {} if name == "lenet" else {"dim": 4, "depth": 1, "heads": 2}
    task = classification_task(name, options, (1, 4, 4), 2)
    model = task.build(1).double()
    inputs = torch.rand(1, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    label = torch.tensor([1])

    def loss(x: Tensor) -> Tensor:
        return task.loss(model, x, label)

    assert torch.autograd.gradgradcheck(loss, (inputs.requires_grad_(),), atol=1e-6)


@pytest.mark.parametrize(("name", "options"), WITHOUT_BATCHNORM, ids=ids)
def test_the_gradient_of_a_batch_is_the_mean_over_its_examples(name, options):
    """It holds where no layer mixes examples, and `torch.func` agrees (vmap over a functional call)."""
    task = small_task(name, options)
    model = quiet(task.build(2)).double()
    inputs, labels = batch(3)
    inputs = inputs.double()
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        logits = functional_call(model, weights, (x.unsqueeze(0),))
        return nn.functional.cross_entropy(logits, y.unsqueeze(0))

    singles = vmap(grad(loss), in_dims=(None, 0, 0))(weights, inputs, labels)
    together = torch.autograd.grad(task.loss(model, inputs, labels), list(model.parameters()))
    for key, whole in zip(weights, together, strict=True):
        torch.testing.assert_close(singles[key].mean(dim=0), whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), SMALL, ids=ids)
def test_images_stored_channels_last_give_the_same_logits(name, options):
    model = small_task(name, options, channels=3).build(3).double().eval()
    inputs = batch(2, channels=3)[0].double()
    strided = inputs.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(model(strided), model(inputs))


@pytest.mark.parametrize(("name", "options"), SMALL, ids=ids)
def test_initial_weights_follow_from_the_seed_alone(name, options):
    task = small_task(name, options)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = task.build(1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = task.build(1).state_dict(), task.build(2).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", ["convnet", "resnet20", "resnet18", "torchvision:mobilenet_v2"])
def test_group_norm_leaves_no_batch_norm(name):
    plain = classification_task(name, {}, CIFAR, 10).build(0)
    grouped = classification_task(name, {"norm": "group"}, CIFAR, 10).build(0)
    assert any(isinstance(module, _BatchNorm) for module in plain.modules())
    assert not any(isinstance(module, _BatchNorm) for module in grouped.modules())
    assert [p.shape for p in plain.parameters()] == [p.shape for p in grouped.parameters()]
    assert grouped.state_dict().keys() == dict(grouped.named_parameters()).keys()


@pytest.mark.parametrize("channels", [*range(1, 70), 128, 320, 512, 1280, 2048])
def test_groups_divide_the_channels(channels):
    count = groups(channels)
    assert channels % count == 0
    assert 1 <= count <= 32
    assert count == 1 or channels // count >= 4


def test_lenet_is_drawn_uniformly_weights_and_biases():
    values = torch.cat(
        [p.detach().flatten() for p in classification_task("lenet", {}, CIFAR, 100).build(0).parameters()]
    )
    assert values.abs().max() <= 0.5
    # 85,036 draws from U(-0.5, 0.5): mean 0 and variance 1/12, each within five standard errors.
    assert values.mean().abs() < 5 * (1 / 12 / len(values)) ** 0.5
    assert abs(values.var() - 1 / 12) < 5 * (1 / 180 / len(values)) ** 0.5


def test_activations_are_not_in_place():
    model = classification_task("torchvision:vgg11", {}, (3, 32, 32), 10).build(0)
    found = [module for module in model.modules() if hasattr(module, "inplace")]
    assert found
    assert not any(module.inplace for module in found)


def documented_counts() -> list[tuple[str, str, str]]:
    rows = [
        line.split("|") for line in DOC.read_text(encoding="utf-8").splitlines() if line.startswith("| `")
    ]
    return [
        (row[1].strip(" `"), row[3].strip(), row[4].strip()) for row in rows if row[3].strip()[:1].isdigit()
    ]


@pytest.mark.parametrize(("name", "grey", "color"), documented_counts())
def test_the_documented_counts_are_right(name, grey, color):
    for shape, stated in ((MNIST, grey), (CIFAR, color)):
        kind = Diffusion() if name in DENOISERS else Classification()
        model = kind.task(name, {}, shape, 10).build(0)
        assert f"{sum(p.numel() for p in model.parameters()):,}" == stated


def test_every_model_is_documented():
    documented = {name for name, _, _ in documented_counts()} | {"torchvision"}
    assert documented == set(MODELS.names())
