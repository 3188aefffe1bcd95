"""Published weights that were tried: recognised by the SHA-256 of their file, with all that belongs to them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from netpress.data.download import Remote

_HUB = "https://raw.githubusercontent.com"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as usual


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known about trained weights.

    Args:
        network: whose they are: a zoo name, `torchvision:NAME` or `timm:NAME`.
        mean: what they want subtracted from pixel / 255, per channel.
        std: what they want it divided by afterwards, per channel.
        data: the set they were trained on, as `data.open` calls it where it knows it.
        trained_on: "train", or "train+validation" where they have seen the images that our split validates with.
        top1: accuracy that is stated with the weights, a fraction of the data set's test images; None: none is.
        licence: under which they are published.
        source: where they come from.
        order: of the image's channels, where they are colours.
        file: their file, below the data root; None where a library fetches them.
    """

    network: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data: str
    trained_on: str
    top1: float | None
    licence: str
    source: str
    order: str = "RGB"
    file: Remote | None = None

    @property
    def note(self) -> str:
        """One sentence for reports.

        >>> KNOWN[0].note.partition(": ")[2]
        'trained on cifar10 (train+validation), stated top-1 91.73 %, with their own normalisation'
        """
        stated = "" if self.top1 is None else f", stated top-1 {self.top1:.2%}".replace("%", " %")
        where = f"{self.data} ({self.trained_on})"
        order = "" if self.order == "RGB" else f" and channels in the order {self.order}"
        return (
            f"weights of {self.network} from {self.source}: trained on {where}{stated}, with their own normalisation"
            f"{order}"
        )


def _cifar(depth: int, file: str, size_bytes: int, sha256: str, top1: float) -> Known:
    return Known(
        network=f"cifar-resnet{depth}",
        mean=_MEAN,
        std=_STD,
        data="cifar10",
        trained_on="train+validation",
        top1=top1,
        licence="BSD-2-Clause",
        source="akamaster/pytorch_resnet_cifar10 at d5489e8",
        file=Remote(
            path=f"weights/resnet-cifar10/{file}",
            size_bytes=size_bytes,
            sha256=sha256,
            mirrors=(
                f"{_HUB}/akamaster/pytorch_resnet_cifar10/d5489e8995e81e91ce6b1d69dcc98ad579b0b153/pretrained_models",
            ),
        ),
    )


KNOWN = (
    _cifar(
        20,
        "resnet20-12fca82f.th",
        1_099_231,
        "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8",
        0.9173,
    ),
    _cifar(
        32,
        "resnet32-d509ac18.th",
        1_890_043,
        "d509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850",
        0.9263,
    ),
    _cifar(
        44,
        "resnet44-014dd654.th",
        2_680_855,
        "014dd6541728a1c700b1642ab640e211dc6eb8ed507d70697458dc8f8a0ae2e4",
        0.9310,
    ),
    _cifar(
        56,
        "resnet56-4bfd9763.th",
        3_471_733,
        "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367",
        0.9339,
    ),
    Known(
        network="mlperf-tiny-resnet8",
        mean=(0.0,) * 3,
        std=(1 / 255,) * 3,  # pixels as they are, 0 to 255
        data="cifar10",
        trained_on="train+validation",
        top1=0.8721,
        licence="Apache-2.0",
        source="mlcommons/tiny at 1afd2c9 (the Keras file's arrays as npz)",
        file=Remote(
            path="weights/mlperf-tiny/resnet8_cifar10.npz",
            size_bytes=303_560,
            sha256="954806b93074f20125d5295cad0b84c6c1d89f372db1a82b8abec7486044e85d",
            mirrors=(),
        ),
    ),
    Known(
        network="mlperf-tiny-mobilenet",
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        data="visual wake words",
        trained_on="train",
        top1=None,
        licence="Apache-2.0",
        source="mlcommons/tiny at 1afd2c9 (the Keras file's arrays as npz)",
        file=Remote(
            path="weights/mlperf-tiny/mobilenet_v1_025_vww96.npz",
            size_bytes=865_877,
            sha256="ef66b7c6e9fe4686d368b659e3f63014cfca24e0993f65ce9d91d1dfce403ae0",
            mirrors=(),
        ),
    ),
    Known(
        network="lenet5",
        mean=(0.0,),
        std=(256 / 255,),  # grey / 256
        data="mnist",
        trained_on="train+validation",
        top1=0.9906,
        licence="BSD-2-Clause",
        source="danielhers/caffe at f2c1b42",
        file=Remote(
            path="weights/lenet-mnist/lenet_iter_10000.caffemodel",
            size_bytes=1_725_006,
            sha256="335712ac09ed4421f361778462afc316bcd672fee50a65fda99c9c4fd6208095",
            mirrors=(f"{_HUB}/danielhers/caffe/f2c1b428a41324431da6ad6a28d5134b9c2dc06b/examples/mnist",),
        ),
    ),
    Known(
        network="squeezenet-caffe",
        mean=(104 / 255, 117 / 255, 123 / 255),  # pixels of 0 to 255 less the mean: blue, green, red
        std=(1 / 255,) * 3,
        data="imagenet",
        trained_on="train",
        top1=0.575,
        licence="BSD-2-Clause",
        source="songhan/SqueezeNet-Deep-Compression at fb13faa",
        order="BGR",
        file=Remote(
            path="weights/squeezenet-deep-compression/compressed_SqueezeNet.net",
            size_bytes=675_763,
            sha256="e4ab6960ae8cd81505e1c2136921201507e930966c53deaf15862a395b3a3261",
            mirrors=(f"{_HUB}/songhan/SqueezeNet-Deep-Compression/fb13faa2cf121ced9999f8a9d538ec6c56084733",),
        ),
    ),
)


def recognise(path: Path) -> Known | None:
    """Return what is known about a file, whatever it is called; None: nothing.

    >>> recognise(Path("README.md")) is None
    True
    """
    if not path.is_file():
        return None
    size = path.stat().st_size
    same_size = [known for known in KNOWN if known.file is not None and known.file.size_bytes == size]
    if not same_size:
        return None
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return next((known for known in same_size if known.file is not None and known.file.sha256 == sha256), None)
