"""Collect every parameter, multiply-add and memory number that the five papers print, as printed.

    python benchmarks/paper_numbers.py PATH/seed_tables.json

writes netpress/reproduce/papers.json, which `netpress reproduce sizes` compares with what it counts. Tables come from
the papers' transcribed tables in the file given; what stands in running text only is listed here with its place.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent.parent / "netpress" / "reproduce" / "papers.json"
PAPERS = {
    "condensenet-mnist": "CondenseNet: Reducing Parameters of CNN (Gulati 2017)",
    "squeezenet": "Final Project: Write-up, on SqueezeNet's microarchitecture (Wang, Sayar, Sayegh 2019)",
    "filter-pruning": "Using Neural networks for Convolutional Neural network compression (Kale, Paranjape)",
    "condensenext": "CondenseNeXt: An Ultra-Efficient Deep Neural Network (Kalgaonkar, El-Sharkawy)",
    "sep-net": "Compressing Neural Networks Structures, slides (Li 2018)",
}
Claim = dict[str, Any]


def claim(key: str, where: str, what: str, printed: str, **more: Any) -> Claim:
    """One printed number; `key` starts with its paper."""
    return {"key": key, "where": where, "what": what, "printed": printed, **more}


def condensenet_mnist(tables: Any) -> Iterator[Claim]:
    """Layer rows, totals and memory of tables 1 to 3 and 5 to 8, the factors of table 11, the text."""
    for model in tables["models"]:
        name, table = model["model"], f"Table {model['table']}"
        key = "condensenet-mnist/" + name.lower().replace(" ", "-")
        for number, layer in enumerate(model["layers"]):
            where, row = table, f"{name}, {layer['layer']}"
            if "params" in layer:
                yield claim(f"{key}/{number}/params", where, f"{row}: parameters", layer["params"])
            yield claim(f"{key}/{number}/out", where, f"{row}: activations per image", layer["out"])
        total = f"{model['seed_params']:,}"
        yield claim(f"{key}/params", f"{table}, total; Table 11", f"{name}: parameters", total)
        memory = f"{model['seed_memory_mb']} MB"
        yield claim(f"{key}/memory", f"{table}, total", f"{name}: memory per image", memory)
        if model["seed_reduction"]:
            what = f"{name}: decrease of parameters against the initial model"
            yield claim(f"{key}/reduction", "Table 11", what, model["seed_reduction"])
    best = "fewest parameters against the initial model"
    yield claim("condensenet-mnist/best", "Introduction; Results: up to 45x", best, "almost 45x")
    filters = "weights of a 3×3 filter against a 1×1 filter of the expand layer"
    yield claim("condensenet-mnist/filter", "Section 5.2", filters, "9X")


def squeezenet(tables: Any) -> Iterator[Claim]:
    """Figure 2, and the ratios of the text."""
    for row in tables["figure_2"]:
        name, group = row.get("name"), row["group"]
        key = (name or f"{group}={row.get(group)}").lower()
        what = name or f"SqueezeNet with {group} = {row[group]}"
        more: dict[str, Any] = {}
        if name != "AlexNet":
            more["settings"] = {
                "base": row["base_e"],
                "incr": row["incr_e"],
                "pct_3x3": row["pct_3x3"] / 100,
                "freq": row["freq"],
                "sr": row["SR"],
            }
        yield claim(f"squeezenet/{key}", "Figure 2", f"{what}: parameters", str(row["seed_params"]), **more)
    t = tables["text_ratios"]
    yield from (claim(f"squeezenet/{key}", where, what, printed) for key, where, what, printed in _squeezenet_text(t))


def _squeezenet_text(t: Any) -> Iterator[tuple[str, str, str, str]]:
    fewer = "parameters, AlexNet / SqueezeNet"
    where = "Abstract; Introduction; Section 2.2: approximately 50x"
    yield "50x", where, f"{fewer}, both for ImageNet's 1000 classes", f"{t['squeezenet_vs_alexnet']}x"
    yield "72.9", "Section 4.2", fewer, f"{t['AlexNet_over_SqueezeNet_params']} times"
    compressed = t["squeezenet_compressed_vs_alexnet"]
    yield "510x", "Introduction", "AlexNet's size / the compressed SqueezeNet's printed size", f"{compressed}x"
    yield "0.5Mb", "Introduction", f"size of the compressed SqueezeNet: AlexNet's / the printed {compressed}", "0.5Mb"
    yield "1.4", "Abstract", "parameters, SqueezeNet / pct_3x3 = 25", "1.4 times"
    pct25 = f"{t['SqueezeNet_over_pct25']} times"
    yield "1.415", "Section 4.2", "parameters, SqueezeNet / pct_3x3 = 25", pct25
    yield "1.85", "Section 4.2", "parameters, SR = 0.25 / SqueezeNet", f"{t['SR_0.25_over_SqueezeNet']} times"
    yield "half", "Section 4.2", "parameters, incr_e = 64 / SqueezeNet", "half"
    incr = f"{t['incr256_over_base256']} times"
    yield "1.5", "Section 4.2", "parameters, incr_e = 256 / base_e = 256", incr
    yield "1.63", "Section 4.2", "parameters, SqueezeNet / freq = 3", f"{t['SqueezeNet_over_freq3']} times"
    where, pruned = "Section 2.1", "AlexNet pruned by Han et al."
    yield "pruned", where, f"{pruned}: share of the weights that go", "over 80%"
    weights = f"{t['alexnet_weight_reduction_by_pruning']} times"
    yield "pruned-weights", where, f"{pruned}: weights, before / after", weights
    macs = f"{t['alexnet_mac_reduction_by_pruning']} times"
    yield "pruned-macs", where, f"{pruned}: multiply-adds, before / after", macs
    yield "pruned-fc", where, f"{pruned}: weights of linear layers, before / after", f"{t['fc_reduction']}x"
    conv = f"{t['conv_reduction']}x"
    yield "pruned-conv", where, f"{pruned}: weights of convolutions, before / after", conv


def filter_pruning(tables: Any) -> Iterator[Claim]:
    """The three sizes that the text quotes."""
    t, where = tables["figures_quoted"], "Section III"
    what = "VGG-16's size, before / after Deep Compression"
    yield claim("filter-pruning/vgg16", where, what, f"factor of {t['vgg16_deep_compression_factor']}")
    what = "size, VGG-16 / MobileNet"
    yield claim("filter-pruning/mobilenet", where, what, f"{t['vgg16_over_mobilenet_size']} times")
    what = "MobileNet after pruning filters of several layers: how much smaller"
    printed = f"{t['mobilenet_size_reduction_percent']} percent"
    yield claim("filter-pruning/smaller", "Section III.A", what, printed)


def condensenext(tables: Any) -> Iterator[Claim]:
    """Table I and the shares of the text."""
    for row in tables["table_1"]:
        name = row["model"]
        key = f"condensenext/{name.lower()}"
        yield claim(f"{key}/operations", "Table I", f"{name}: FLOPs", f"{row['mflops']:.2f} million")
        yield claim(f"{key}/params", "Table I", f"{name}: parameters", f"{row['mparams']:.2f} million")
        yield claim(f"{key}/size", "Table I", f"{name}: trained model size", f"{row['size_mb']} MB")
    what = "CondenseNeXt: trained model size"
    yield claim("condensenext/bound", "Abstract; Sections II, IV, VII", what, "less than 3.0 MB")
    steps = (("depthwise", "Section IV.A", "depthwise separable convolution"), ("pruning", "Section IV.B", "pruning"))
    for key, where, step in steps:
        for what, word in (("flops", "FLOPs"), ("params", "parameters")):
            printed = f"{-tables['text_deltas_percent'][key][what]}%"
            yield claim(f"condensenext/{key}/{what}", where, f"share of the {word} that goes by {step}", printed)


def sep_net(tables: Any) -> Iterator[Claim]:
    """Layer tables, shares, sizes, pruning table, binarization and SEP-Net tables of the slides."""
    yield claim("sep-net/alexnet/first", "AlexNet: compute # of parameters", "AlexNet, Conv1: parameters", "34944")
    yield from _layers("alexnet", "AlexNet", tables)
    yield from _layers("vgg", "VGG-16", tables)
    size = tables["googlenet"]["seed_size"]
    yield claim("sep-net/googlenet/size", "GoogleNet", "GoogLeNet: size", size)
    where, example = "Group-wise convolution", "16 → 32 channels, 3×3"
    yield claim("sep-net/group/dense", where, f"{example}, ungrouped: weights", "16x11x11x32")
    yield claim("sep-net/group/grouped", where, f"{example}, 4 groups: weights", "16/4x11x11x32")
    yield claim("sep-net/group/ratio", where, f"{example}: weights, ungrouped / 4 groups (k = 4)", "4 times")
    for row in tables["pruning_table"]:
        network, form = row["network"].rsplit(" ", 1)
        key = f"sep-net/pruning/{network.lower()}"
        what = f"{network}: parameters" if form == "Ref" else f"{network} pruned: parameters that stay"
        yield claim(f"{key}/{form.lower()}", "Weight Pruning: results", what, row["params"])
        if row["compression"]:
            what = f"{network}: parameters, before / after pruning"
            yield claim(f"{key}/ratio", "Weight Pruning: results", what, row["compression"])
    yield claim("sep-net/filter/before", "Pattern Binarization", "a 3×3 filter in float32: bytes", "9 x 4 Bytes")
    yield claim("sep-net/filter/after", "Pattern Binarization", "the same filter binarized: bits", "9 bits")
    for row in tables["binarization_table"]:
        key, where = f"sep-net/{row['model'].lower()}", "Experimental Results: 1000 classes"
        yield claim(f"{key}/params", where, f"{row['model']}: parameters", row["params"])
        yield claim(f"{key}/binarized", where, f"{row['model']} after binarization: parameters", row["params_bin"])
    yield from _sepnet(tables["sepnet_tables"])


def _layers(key: str, name: str, tables: Any) -> Iterator[Claim]:
    where = f"{name}: parameters in each layer"
    counted = "parameters" if key == "alexnet" else "weights"
    for row in tables[f"{key}_layers"]:
        layer = row["layer"].lower()
        what = f"{name}: parameters" if layer == "total" else f"{name}, {row['layer']}: {counted}"
        yield claim(f"sep-net/{key}/{layer}", where, what, row["seed"])
    split = tables[f"{key}_split"]["seed"]
    for part, word in (("conv", "convolutions"), ("fc", "linear layers")):
        yield claim(f"sep-net/{key}/{part}", where, f"{name}, {word}: parameters", split[part])
        share = f"{split[f'{part}_percent']}%"
        yield claim(f"sep-net/{key}/{part}-share", where, f"{name}, {word}: share of the parameters", share)
    yield claim(f"sep-net/{key}/size", where, f"{name}: size", split["size"])


def _sepnet(rows: Any) -> Iterator[Claim]:
    seen: set[str] = set()
    for row in rows:
        name = f"{row['model']} {row['params']}" if row["model"] == "MobileNet" else row["model"]
        key = f"sep-net/{name.lower().replace(' ', '-')}"
        assert key not in seen, key
        seen.add(key)
        where = "The designed SEP-Net" + ("; The Proposed SEP-Net Structure" if name == "SEP-Net-R small" else "")
        yield claim(f"{key}/params", where, f"{name}: parameters", row["params"])
        yield claim(f"{key}/size", where, f"{name}: size", row["size"])


def published(tables: Any) -> dict[str, Any]:
    """What Han et al. 2016 print per layer, in the layers' order: the fraction kept, the rate after Huffman coding."""
    columns = tables["columns"]
    kept, rate = columns.index("kept_fraction"), columns.index("rate_PQH_percent")
    return {
        name: {"kept": [row[kept] for row in rows], "rate_percent": [row[rate] for row in rows]}
        for name, rows in tables["tables"].items()
    }


def text(tables: Any) -> str:
    """The file: one line for each number."""
    makers = (condensenet_mnist, squeezenet, filter_pruning, condensenext, sep_net)
    claims = [one for number, make in enumerate(makers) for one in make(tables[f"seed_{number:03}"])]
    assert len({one["key"] for one in claims}) == len(claims)
    data = {"papers": PAPERS, "published": published(tables["han_deep_compression"])}
    lines = ",\n".join(f"  {json.dumps(one, ensure_ascii=False)}" for one in claims)
    head = json.dumps(data, ensure_ascii=False, indent=1).removesuffix("\n}")
    return f'{head},\n "claims": [\n{lines}\n ]\n}}\n'


def main() -> int:
    """Write the file."""
    OUT.write_text(text(json.loads(Path(sys.argv[1]).read_text())))
    print(f"written: {OUT.name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
