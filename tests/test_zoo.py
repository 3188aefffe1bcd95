"""The zoo: every network is what its table says, takes other settings, and refuses wrong ones in one line."""

import onnxruntime
import pytest
import torch

from netpress import zoo
from netpress.errors import ModelError

# From the papers' tables, kept apart from the zoo's own so that a typing error in one shows.
PARAMS = {
    "lenet-300-100": 266_610,
    "lenet5": 431_080,
    "mnist-initial": 3_423_498,
    "mnist-modification-1": 3_291_402,
    "mnist-modification-2": 3_225_354,
    "condensenet-mnist-vanilla": 535_066,
    "condensenet-mnist-1": 141_850,
    "condensenet-mnist-2": 74_906,
    "condensenet-mnist-3": 139_738,
}


def test_the_papers_networks_are_there():
    assert set(PARAMS) <= set(zoo.names())
    assert zoo.names() == sorted(set(zoo.names()))


@pytest.mark.parametrize("name", PARAMS)
def test_parameters_equal_the_papers(name):
    net = zoo.create(name)
    assert sum(p.numel() for p in net.parameters()) == PARAMS[name] == zoo.describe(name).params
    assert zoo.describe(name).source


@pytest.mark.parametrize("name", PARAMS)
def test_settings_change_input_and_classes(name):
    net = zoo.create(name, num_classes=7, in_channels=3, size=32, dropout=0.25).eval()
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert {m.p for m in net.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}


@pytest.mark.parametrize("name", zoo.names())
def test_default_takes_its_own_shape(name):
    variant = zoo.describe(name)
    net = zoo.create(name, device="meta").eval()
    assert net(torch.zeros(3, *variant.shape, device="meta")).shape == (3, variant.num_classes)


@pytest.mark.parametrize("name", ["lenet5", "condensenet-mnist-1"])
def test_exports_with_a_free_batch(name, tmp_path):
    net, x = zoo.create(name).eval(), torch.randn(5, 1, 28, 28)
    path = tmp_path / "net.onnx"
    batch = torch.export.Dim("batch")
    torch.onnx.export(net, (x[:2],), path, dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    out = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(out), net(x).detach(), atol=1e-5, rtol=1e-5)


def test_attribute_names_are_the_short_ones():
    lenet5, lenet300 = zoo.create("lenet5"), zoo.create("lenet-300-100")
    assert {n.split(".")[0] for n, _ in lenet5.named_parameters()} == {"conv1", "conv2", "fc1", "fc2"}
    assert {n.split(".")[0] for n, _ in lenet300.named_parameters()} == {"fc1", "fc2", "fc3"}


def test_structural_settings_are_settings_too():
    net = zoo.create("lenet5", convs=[8, 16], hidden=[50])
    assert (net.conv1.out_channels, net.fc1.in_features, net.fc1.out_features) == (8, 16 * 16, 50)


def test_four_by_four_same_pool_uses_padding_one():
    assert (zoo.create("condensenet-mnist-vanilla").pool2.padding, zoo.create("condensenet-mnist-1").pool2.padding) == (
        1,
        0,
    )


@pytest.mark.parametrize("pool", range(2, 15))
@pytest.mark.parametrize("size", [2, 9, 28, 31, 32, 33])
def test_same_pool_fits_the_linear_layer_at_every_size(pool, size):
    net = zoo.create("condensenet-mnist-vanilla", pool=pool, size=size).eval()
    assert net(torch.zeros(1, 1, size, size)).shape == (1, 10)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("lenet6", {}, ["'lenet6'", "'lenet5'", "netpress list"]),
        ("qqqq", {}, ["'qqqq'", "netpress list"]),
        ("lenet5", {"width": 3}, ["'width'", "num_classes", "dropout"]),
        ("lenet5", {"num_classes": 0}, ["num_classes", "got 0"]),
        ("lenet5", {"num_classes": True}, ["num_classes", "got True"]),
        ("lenet5", {"size": "28"}, ["size", "'28'"]),
        ("lenet5", {"size": 15}, ["size 15", "too small", "smallest size is 16"]),
        ("lenet5", {"dropout": 1.0}, ["dropout", "1.0"]),
        ("lenet5", {"hidden": 500}, ["hidden", "500"]),
        ("lenet5", {"convs": (20, -1)}, ["convs", "-1"]),
        ("mnist-initial", {"kernel": 4}, ["odd", "kernel 4"]),
        ("mnist-initial", {"size": 3}, ["size 3"]),
        ("condensenet-mnist-vanilla", {"pool": 1}, ["pool 1"]),
    ],
)
def test_wrong_names_and_settings_are_one_line(name, settings, words):
    with pytest.raises(ModelError) as caught:
        zoo.create(name, **settings)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_describe_refuses_an_unknown_name():
    with pytest.raises(ModelError, match="lenet5"):
        zoo.describe("lenet-5")


@pytest.mark.parametrize("name", zoo.names())
def test_table_settings_are_arguments_of_build(name):
    net = zoo.create(name, device="meta", **zoo.describe(name).settings)
    assert sum(p.numel() for p in net.parameters()) == zoo.describe(name).params
