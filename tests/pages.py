"""Run folders made by hand, and their report as a parsed page: what the tests of the report share."""

import json
from html.parser import HTMLParser

import numpy as np

from netpress.codec import container, stored
from netpress.codec.container import Press, Tensor
from netpress.codec.header import Arch, Header
from netpress.report import write_report

EVIL = "<script>alert('x')</script>&\"{{ 7*7 }}"


class Page(HTMLParser):
    """Every tag with its attributes, the text of scripts, and the text around tags."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.words, self._script = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), []))
        self._script = self.scripts[-1][1] if tag == "script" else None

    def handle_endtag(self, tag):
        self._script = None

    def handle_data(self, data):
        (self.words if self._script is None else self._script).append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).replace("\u00a0", " ").split())

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def layer(name, value, packed):
    shared = value.table is not None
    kept = int(np.prod(value.shape)) if value.positions is None else len(value.positions)
    return {
        "name": name,
        "shape": list(value.shape),
        "params": int(np.prod(value.shape)),
        "kept": kept,
        "form": value.form,
        "table": len(value.table) if shared else None,
        "bits": 2 if shared else 32,
        "macs": 100,
        "bytes": dict(packed.parts),
    }


def stage(folder, values, name, top1, *, buffers=0):
    """Write one stage's file; its numbers."""
    packed = {key: stored.pack(value) for key, value in values.items()}
    tensors = [Tensor.of(key, value) for key, value in values.items()]
    tensors += [Tensor.of(f"norm{i}.running_mean", stored.free(np.ones(5, np.float32))) for i in range(buffers)]
    (folder / name).mkdir(parents=True)
    path = folder / name / "candidate.press"
    container.write(path, Press(Header(Arch("zoo", "toy"), (1, 4, 4)), tuple(tensors), b"graph" * 9))
    return {
        "name": name,
        "params": sum(int(np.prod(v.shape)) for v in values.values()),
        "nonzero": 20,
        "macs": 1000,
        "file_bytes": path.stat().st_size,
        "split": "test",
        "top1": top1,
        "validation": {"top1": top1 + 0.01},
        "layers": [layer(key, value, packed[key]) for key, value in values.items()],
        "coded": {"bits": 900, "huffman": 800, "rans": 850},
        "seconds": 3.0,
        "train": {"epochs": 1, "lr": 1e-3},
        "records": [],
        "history": [{"epoch": 1, "train_loss": 0.5, "validation_loss": 0.6, "validation_top1": 0.9}],
    }


def craft(folder, *, layers=("conv.weight", "fc.weight"), classes=("cat", "dog"), **changes):
    """A run folder made by hand: free weights before, shared ones after."""
    rng = np.random.default_rng(0)
    before, after = {}, {}
    for i, name in enumerate(layers):
        shape = (4, 6 + i)
        weights = rng.normal(size=shape).astype(np.float32)
        before[name] = stored.free(weights)
        codes = rng.integers(0, 3, 10)
        after[name] = stored.Stored(shape, "shared", "float32", np.arange(10) * 2, codes, np.float32([-0.5, 0.25, 1]))
    first, last = stage(folder, before, "00-baseline", 0.95), stage(folder, after, "01-share", 0.94, buffers=2)
    last["records"] = [{"method": "weight_share", "settings": {"bits": {layers[0]: 2}}, "notes": ["a note"]}]
    timing = {"samples_ms": [1.0, 1.1, 0.9], "calls": 9, "threads": 1, "batch": 1, "runtime": "onnxruntime 1"}
    metrics = {
        "title": "By hand",
        "network": "zoo:toy",
        "data": {"name": "toy", "fingerprint": "ab" * 32, "note": "80 train, 10 validation, 10 test"},
        "classes": list(classes),
        "baseline": first,
        "steps": [last],
        "final": last,
        "ratio": 4 * first["params"] / last["file_bytes"],
        "speedup": {
            "median": 1.0,
            "q1": 0.9,
            "q3": 1.1,
            "baseline_ms": 1.0,
            "final_ms": 1.0,
            "timings": {"baseline": {**timing, "turns": [0, 2, 4]}, "final": {**timing, "turns": [1, 3, 5]}},
        },
        "parity": {"images": 10, "same_top1": 1.0, "largest": 1e-6, "scale": 9.0},
        "changed": {
            "images": 3,
            "lost": 2,
            "won": 1,
            "confusion": [[4, 1], [2, 3]],
            "examples": [{"index": 7, "label": 0, "before": 0, "after": 1}],
        },
        "budget": [{"limit": "max_drop", "allowed": 0.5, "measured": 1.0, "met": False}],
        "seed": 0,
        "machine": {"processor": "p", "cores": 2, "threads": 1, "versions": {"numpy": "2"}},
        "date": "2026-01-01",
        **changes,
    }
    (folder / "recipe.toml").write_text('title = "By hand"\n[budget]\nmax_drop = 0.5\nmax_latency = "5ms"\n')
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def page_of(folder):
    return Page(write_report(folder).read_text())
