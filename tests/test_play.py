"""The playground: what it serves, what it says of broken runs, and that browsers answer what Python answers."""

import json
import shutil
import socket
import struct
import urllib.error
import urllib.request
import zlib

import browser
import numpy as np
import pytest
import torch
from torch import nn

from netpress import data, job, store
from netpress.candidate import Candidate, Context, Inputs
from netpress.cli import main
from netpress.codec.header import Arch
from netpress.data import normalise
from netpress.errors import FileError, NetpressError
from netpress.methods.weight_prune import WeightPrune
from netpress.methods.weight_share import WeightShare
from netpress.play.serve import Playground, export
from netpress.play.site import site
from netpress.runtime import Session

STEPS = ["00-baseline", "01-weight_prune", "02-weight_share"]
READY = "document.body?.dataset.ready === 'yes'"


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 8, 5, stride=3), nn.Linear(512, 10)

    def forward(self, x):
        return self.fc(self.conv(x).relu().flatten(1))


TITLE = "Small <b>network</b>"
INPUTS = Inputs((1, 28, 28), (0.3,), (0.3,))


def trained():
    """A network that reads digits."""
    torch.manual_seed(0)
    net, split = Small(), data.open("digits").train
    x, labels = normalise(split.images, INPUTS.mean, INPUTS.std), split.labels
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
    return net.eval()


def write(path, value):
    path.write_text(json.dumps(value))


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """The folder of a finished run, as the main job leaves it, without what the playground does not read."""
    out = tmp_path_factory.mktemp("play") / "run"
    original = Candidate(trained(), {}, Arch("own", "Small"), INPUTS, tuple("0123456789"))
    context = Context(example=torch.zeros(1, 1, 28, 28))
    pruned = WeightPrune(sparsity=0.8).apply(original, context)
    shared = WeightShare(bits=4).apply(pruned, context)
    for step, candidate in zip(STEPS, (original, pruned, shared), strict=True):
        (out / step).mkdir(parents=True)
        store.save(candidate, out / step / "candidate.press")
        write(out / step / "metrics.json", {"top1": 0.75, "split": "test"})
    shutil.copy(out / STEPS[-1] / "candidate.press", out / "model.press")
    final = {"top1": 0.75, "split": "test"}
    write(out / "metrics.json", {"title": TITLE, "network": "own", "data": {"name": "digits"}, "final": final})
    write(out / "run.json", {"network": "own", "data": "digits 0123"})
    return out


@pytest.fixture
def run(once, tmp_path):
    """A copy of a finished run."""
    return shutil.copytree(once, tmp_path / "run")


@pytest.fixture(scope="module")
def page(once, tmp_path_factory):
    """A browser, and a playground of a finished run."""
    with Playground(once, 0) as shown, browser.browsing(tmp_path_factory.mktemp("profile")) as opened:
        yield opened, shown


def about(shown):
    return json.loads(shown.files["play.json"])


def get(address):
    with urllib.request.urlopen(address, timeout=10) as answer:
        return answer, answer.read()


# --- what is served ---


def test_a_finished_run_has_all_its_steps(run):
    shown = site(run)
    found = about(shown)
    assert [step["name"] for step in found["steps"]] == STEPS
    assert found["original"] == 0
    assert found["problems"] == []
    assert found["shape"] == [1, 28, 28]
    for step in found["steps"]:
        assert shown.files[step["file"]].read_bytes() == (run / step["name"] / "candidate.press").read_bytes()
        assert step["bytes"] == (run / step["name"] / "candidate.press").stat().st_size
        assert step["top1"] == 0.75


def test_a_result_that_is_not_the_last_steps_is_a_step_of_its_own(run):
    shutil.copy(run / STEPS[1] / "candidate.press", run / "model.press")
    assert [step["name"] for step in about(site(run))["steps"]] == [*STEPS, "model"]


def test_an_unfinished_run_is_shown_as_far_as_it_got(run):
    (run / "model.press").unlink()
    (run / "metrics.json").unlink()
    shutil.rmtree(run / STEPS[2])
    (run / STEPS[1] / "metrics.json").write_text("{")
    found = about(site(run))
    assert [step["name"] for step in found["steps"]] == STEPS[:2]
    assert found["problems"] == ["model.press: missing; the run is not finished"]
    assert "top1" not in found["steps"][1]
    assert found["data"] == "digits"


def test_damaged_files_are_left_out_and_named(run):
    for name in ("00-baseline", "01-weight_prune"):
        file = run / name / "candidate.press"
        file.write_bytes(file.read_bytes()[:-1])
    found = about(site(run))
    assert [step["name"] for step in found["steps"]] == STEPS[2:]
    assert found["original"] is None
    assert len(found["problems"]) == 2
    assert found["problems"][0].startswith("00-baseline/candidate.press: ")
    assert str(run) not in json.dumps(found)


@pytest.mark.parametrize("case", ["missing", "empty", "search", "all damaged"])
def test_folders_with_nothing_to_play(case, run, tmp_path, capsys):
    folder = {"missing": tmp_path / "no", "empty": tmp_path}.get(case, run)
    if case == "empty":
        shutil.rmtree(run)
    if case == "search":
        (run / "search.json").write_text("{}")
    if case == "all damaged":
        for file in run.rglob("*.press"):
            file.write_bytes(b"x")
    with pytest.raises(FileError):
        site(folder)
    assert main(["play", str(folder), "--port", "0"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("netpress: ")
    assert said.count("\n") == 1


def test_a_port_in_use_is_one_line(run, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["play", str(run), "--port", str(port)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert f"port {port}" in said.err
    with pytest.raises(NetpressError, match="65535"):
        Playground(run, 1 << 16)


def test_the_server_sends_the_site_and_nothing_else(run):
    with Playground(run, 0) as shown:
        assert shown.address.startswith("http://127.0.0.1:")
        answer, body = get(shown.address)
        assert b"<h1" in body
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'self'; script-src 'self' 'wasm-unsafe-eval'")
        assert get(shown.address + "press.js?v=1")[0].headers["Content-Type"].startswith("text/javascript")
        assert (
            get(shown.address + "vendor/ort-wasm-simd-threaded.wasm")[0].headers["Content-Type"] == "application/wasm"
        )
        head = urllib.request.Request(shown.address, method="HEAD")
        assert urllib.request.urlopen(head, timeout=10).read() == b""
        for name in ("metrics.json", "../run.json", "%2e%2e/run.json", "files/../../run.json", "site.py", "vendor/"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                get(shown.address + name)


def test_export_is_the_same_site(run, tmp_path, capsys):
    out = tmp_path / "site"
    assert main(["play", str(run), "--export", str(out)]) == 0
    said = capsys.readouterr().out
    shown, names = export(run, out)
    assert f"{len(names)} files, {shown.size_bytes:,} bytes" in said
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()) == sorted(names)
    assert (out / "files/02-weight_share.press").read_bytes() == (run / "model.press").read_bytes()
    with pytest.raises(FileError, match="run itself"):
        export(run, run)
    (tmp_path / "file").write_text("")
    assert main(["play", str(run), "--export", str(tmp_path / "file")]) == 2


def test_inputs_that_are_no_images_are_named(run):
    four = Candidate(nn.Sequential(nn.Conv2d(4, 2, 3), nn.Flatten()), {}, Arch("own", "Four"), Inputs((4, 4, 4)))
    store.save(four, run / STEPS[1] / "candidate.press")
    found = about(site(run))
    assert [step["name"] for step in found["steps"]] == [STEPS[0], STEPS[2]]
    assert "grey or colour" in found["problems"][0]


@pytest.mark.slow
def test_the_folder_of_the_main_job_is_one(tmp_path):
    small = {"step.0.train.epochs": "1", "step.0.sparsity": "0.8"}
    job.run("prune", net=Small(), data="digits", out=tmp_path / "run", overrides=small)
    found = about(site(tmp_path / "run"))
    assert [step["name"] for step in found["steps"]] == STEPS[:2]
    assert found["problems"] == []
    assert found["data"] == "digits"
    assert all(0 < step["top1"] <= 1 and step["split"] == "test" for step in found["steps"])


# --- in a browser ---


def outside(opened, shown):
    return [a for a in opened.requests if not a.startswith((shown.address, "data:", "blob:", "about:"))]


def _pixels(count):
    return data.open("digits").test.images[:count].numpy()


def load(opened, shown, size=(1200, 900)):
    opened.console.clear()
    opened.size(*size)
    opened.open(shown.address)
    opened.wait_for(READY)


def test_a_digit_gets_the_answers_that_python_gives(page, once):
    opened, shown = page
    load(opened, shown)
    pixels = _pixels(6)
    sides = {"original": Session(once / STEPS[0] / "candidate.press"), "compressed": Session(once / "model.press")}
    for image in pixels:
        answers = opened.run(f"setPixels({image.reshape(-1).tolist()})")
        for side, session in sides.items():
            (wanted,) = session.classify(image, top=10)
            found = answers[side]
            assert found[0][0] == wanted[0][0]
            np.testing.assert_allclose(sorted(p for _, p in found), sorted(p for _, p in wanted), atol=1e-5)
    text = opened.run("document.querySelector('#answers').innerText")
    left, right = (answers[side][0][0] for side in ("original", "compressed"))
    assert (f"Both say {left}." if left == right else f"They differ: {left} and {right}.") in text
    assert f"{(once / 'model.press').stat().st_size:,} bytes" in text
    opened.wait_for("document.querySelector('#right-facts').innerText.match(/One image\\s+[0-9.]+\\sms/)")
    assert opened.console == []
    assert outside(opened, shown) == []


def test_the_slider_goes_through_the_steps(page, once):
    opened, shown = page
    load(opened, shown)
    image = _pixels(1)[0]
    opened.run(f"setPixels({image.reshape(-1).tolist()})")
    opened.run("document.querySelector('#step').focus()")
    for place in (1, 0):
        opened.key("ArrowLeft", 37)
        size = (once / STEPS[place] / "candidate.press").stat().st_size
        opened.wait_for(f"document.querySelector('#right-facts').innerText.includes('{size:,} bytes')")
        assert opened.run("document.querySelector('#step-name').innerText").startswith(f"{place + 1} of 3.")
        (((label, _),),) = Session(once / STEPS[place] / "candidate.press").classify(image, top=1)
        opened.wait_for(f"document.querySelector('#right-classes .name')?.innerText === '{label}'")
    assert opened.run("document.querySelector('#title').innerText") == TITLE  # not taken for HTML
    assert opened.console == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_on_a_phone(page, scheme):
    opened, shown = page
    opened.dark(scheme)
    load(opened, shown, size=(375, 740))
    assert opened.run("document.documentElement.scrollWidth") == 375
    wide = "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > 375.5).length"
    assert opened.run(wide) == 0
    ink, ground = (opened.run(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    assert contrast(ink, ground) > 7
    opened.dark("light")


def contrast(one, other):
    def light(colour):
        parts = [int(v) / 255 for v in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        return sum(
            w * (v / 12.92 if v < 0.04 else ((v + 0.055) / 1.055) ** 2.4)
            for w, v in zip((0.2126, 0.7152, 0.0722), parts, strict=True)
        )

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_drawing_by_pointer_and_by_keys(page):
    opened, shown = page
    load(opened, shown)
    assert opened.run("document.querySelector('#verdict').innerText") == "Draw, or choose an image."
    box = opened.run(
        "(({left, top, width}) => [left, top, width])(document.querySelector('#canvas').getBoundingClientRect())"
    )
    x, y = box[0] + box[2] / 2, box[1] + box[2] / 5
    for kind, place in (("mousePressed", y), ("mouseMoved", y + box[2] / 2), ("mouseReleased", y + box[2] / 2)):
        opened.send("Input.dispatchMouseEvent", type=kind, x=x, y=place, button="left", buttons=1, clickCount=1)
    opened.wait_for("document.querySelectorAll('#left-classes li').length === 5")
    opened.run("document.querySelector('#clear').click()")
    opened.wait_for("document.querySelector('#verdict').innerText === 'Draw, or choose an image.'")
    opened.run("document.querySelector('#canvas').focus()")
    for _ in range(5):
        opened.key("ArrowDown", 40)
    opened.wait_for("document.querySelectorAll('#right-classes li').length === 5")
    assert opened.console == []


def png(path, pixels):
    """A PNG of uint8 pixels [H, W, 3]."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


def choose(opened, path):
    root = opened.send("DOM.getDocument")["root"]["nodeId"]
    node = opened.send("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    opened.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])


def test_a_chosen_image_is_converted_and_it_is_said(page, tmp_path):
    opened, shown = page
    load(opened, shown)
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[10:30, 25:35] = (255, 120, 0)
    choose(opened, png(tmp_path / "photo.png", picture))
    note = "document.querySelector('#image-note').innerText"
    opened.wait_for(f"{note} !== ''")
    said = opened.run(note)
    assert said == "photo.png, 60 × 40: cropped to its middle, scaled to 28 × 28, turned grey."
    drop = "const drop = new DataTransfer(); drop.items.add(new File([await small.convertToBlob()], 'dropped.png'));"
    event = (
        "document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: drop, bubbles: true, cancelable: true }))"
    )
    opened.run(
        "(async () => { const small = new OffscreenCanvas(28, 28); small.getContext('2d').fillRect(0, 0, 9, 9);"
        f"{drop} {event}; }})()"
    )
    opened.wait_for(f"{note} === 'dropped.png, 28 × 28: as it is.'")
    (tmp_path / "text.png").write_text("no image")
    choose(opened, tmp_path / "text.png")
    opened.wait_for(f"{note}.includes('no image that this browser reads')")
    assert opened.console == []


def test_a_colour_network_takes_a_colour_image_as_it_is(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3))
    inputs = Inputs((3, 8, 8), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    folder = tmp_path / "run"
    folder.mkdir()
    store.save(Candidate(net, {}, Arch("own", "Three"), inputs, ("a", "b", "c")), folder / "model.press")
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    with Playground(folder, 0) as shown, browser.browsing(tmp_path / "profile") as opened:
        load(opened, shown)
        assert "no original beside" in opened.run("document.querySelector('#notices').innerText")
        choose(opened, png(tmp_path / "a.png", picture))
        opened.wait_for("document.querySelectorAll('#right-classes li').length === 3")
        opened.wait_for("document.querySelector('#image-note').innerText === 'a.png, 8 × 8: as it is.'")
        (wanted,) = Session(folder / "model.press").classify(picture.transpose(2, 0, 1), top=1)
        assert (
            opened.run("document.querySelector('#verdict').innerText") == f"The compressed network says {wanted[0][0]}."
        )
        assert opened.console == []


def test_without_simd_it_is_said_and_files_are_still_decoded(once, tmp_path):
    with Playground(once, 0) as shown, browser.browsing(tmp_path / "profile") as opened:
        opened.send("Page.addScriptToEvaluateOnNewDocument", source="WebAssembly.validate = () => false;")
        load(opened, shown)
        assert "no WebAssembly SIMD" in opened.run("document.querySelector('#notices').innerText")
        assert "Decoded in" in opened.run("document.querySelector('#left-facts').innerText")
        assert not [address for address in opened.requests if address.endswith(".wasm")]
        assert opened.console == []


def test_a_file_that_is_damaged_later_is_named_on_the_page(run, tmp_path):
    with Playground(run, 0) as shown, browser.browsing(tmp_path / "profile") as opened:
        file = run / STEPS[2] / "candidate.press"
        raw = bytearray(file.read_bytes())
        raw[len(raw) // 2] ^= 1
        file.write_bytes(raw)
        load(opened, shown)
        opened.run(f"setPixels({_pixels(1)[0].reshape(-1).tolist()})")
        assert "files/02-weight_share.press: " in opened.run("document.querySelector('#notices').innerText")
        assert "The original says" in opened.run("document.querySelector('#verdict').innerText")


def test_the_browser_would_tell_of_errors_and_of_requests(tmp_path):
    """Saboteur: what the tests above hold to be empty can be filled."""
    with browser.browsing(tmp_path / "profile") as opened:
        opened.open("data:text/html,<script>console.error('seen'); fetch('http://127.0.0.1:9/x')</script>")
        opened.wait_for("document.readyState === 'complete'")
        opened.wait_for("true")
        assert "seen" in opened.console
        assert "http://127.0.0.1:9/x" in opened.requests
