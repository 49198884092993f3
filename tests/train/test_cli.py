import json

import pytest

from smart_train import PRUNERS
from smart_train.cli import main
from smart_train.run import prune
from smart_train.run.recipe import Recipe

TINY = ["--model", "vit-tiny", "--pattern", "block:16x16", "--sparsity", "0.75", "--batch", "32"]
TINY += ["--dense-steps", "20", "--search-steps", "20", "--finetune-steps", "10"]


@pytest.fixture(scope="module", autouse=True)
def impatient():
    """No second measurement of a layer whose times have not settled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prune, "PATIENCE", 0.0)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["prune", *TINY, "--baseline", "--out", str(out)]) == 0
    return out


def test_prune_writes_everything(run):
    for name in ("model.safetensors", "config.json", "recipe.json", "report.json", "report.md"):
        assert (run / name).stat().st_size > 0
    pictures = {path.name for path in run.glob("*.png")}
    assert pictures == {"accuracy.png", "temperature.png", "kept.png", "latency.png", "masks.png"}
    text = (run / "report.md").read_text()
    assert all(f"({name})" in text for name in pictures)


def test_the_report_is_complete(run):
    report = json.loads((run / "report.json").read_text())
    assert set(report["accuracy"]) == {"dense", "smart", "oneshot"}
    budget = report["budget"]
    assert budget["asked"] == budget["prunable"] // 4
    assert 0 <= budget["asked"] - budget["kept"] < budget["largest_block"] == 256
    assert len(report["layers"]) == 4 and 0 <= report["sparse_share"] <= 1
    assert report["latency"]["pairs"] >= 30
    assert Recipe(**report["recipe"]).to_dict() | {"temperature": [0.2, 1e-3]} == report["recipe"]


@pytest.mark.parametrize("graph, said", [("auto", False), ("on", True), ("off", False)])
def test_without_a_gpu_it_says_that_there_are_no_graphs_to_who_wants_them(graph, said, run, capsys):
    assert main(["prune", *TINY, "--graph", graph, "--out", str(run)]) == 2  # the directory is taken
    assert ("do not come from CUDA graphs" in capsys.readouterr().err) == said


@pytest.mark.parametrize(
    ("pruner", "pattern", "searched", "prepared"),
    [("gradual", "nm:2:4", True, 0), ("taylor", "channel", False, 4), ("oneshot", "block:16x16", False, 0)],
)
def test_every_method_of_the_table(pruner, pattern, searched, prepared, tmp_path):
    sparsity = {"nm:2:4": "0.5"}.get(pattern, "0.6")
    steps = ["--dense-steps", "6", "--search-steps", "10", "--finetune-steps", "5", "--batch", "32"]
    task = ["--model", "vit-tiny", "--pattern", pattern, "--sparsity", sparsity, "--pruner", pruner, "--baseline"]
    assert main(["prune", *task, *steps, "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["accuracy"]) == {"dense", pruner, "oneshot"}
    assert report["steps"] == {"dense": 6, "pruned": 15, "prepared": prepared}
    assert 0 <= report["budget"]["asked"] - report["budget"]["kept"] < report["budget"]["largest_block"]
    assert (tmp_path / "temperature.png").exists() == searched
    history = (tmp_path / "training" / pruner / "history.jsonl").read_text().splitlines()
    assert json.loads(history[-1])["step"] == 15 - prepared
    text = (tmp_path / "report.md").read_text()
    assert PRUNERS[pruner].title in text and text.count("+15 |") == len(report["accuracy"]) - 1
    assert ("4 of the +15 steps are batches" in text) == (prepared == 4)
    assert main(["run", str(tmp_path)]) == 0


def test_run_finds_the_reported_accuracy(run, capsys):
    assert main(["run", str(run)]) == 0
    measured, reported = capsys.readouterr().out.removeprefix("accuracy ").split(", reported ")
    assert measured.strip() == reported.strip()


def test_run_fails_when_the_accuracy_is_another(run, capsys):
    path = run / "report.json"
    text = path.read_text()
    report = json.loads(text)
    report["accuracy"]["smart"] += 1
    path.write_text(json.dumps(report))
    try:
        assert main(["run", str(run)]) == 1
    finally:
        path.write_text(text)
    assert "not as accurate" in capsys.readouterr().err


def test_a_directory_with_a_run_is_not_overwritten(run, capsys):
    assert main(["prune", *TINY, "--out", str(run)]) == 2
    assert "--resume continues it" in capsys.readouterr().err


def test_resume_with_other_settings(run, capsys):
    assert main(["prune", *TINY, "--lr", "0.5", "--out", str(run), "--resume"]) == 2
    assert "lr: 0.5, 0.001 there" in capsys.readouterr().err


def test_a_finished_run_resumes_to_the_same_accuracy(run):
    before = json.loads((run / "report.json").read_text())
    assert main(["prune", *TINY, "--baseline", "--out", str(run), "--resume"]) == 0
    after = json.loads((run / "report.json").read_text())
    assert after["accuracy"]["dense"] == before["accuracy"]["dense"]
    assert after["budget"] == before["budget"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pattern", "blok:3x3"], "pattern must be block:ROWSxCOLS"),
        (["--pattern", "block:0x8"], "block:0x8"),
        (["--sparsity", "90"], "sparsity must be between 0 and 1; for 90 % write 0.9, got 90.0"),
        (["--sparsity", "0"], "sparsity must be between 0 and 1, got 0.0"),
        (["--pattern", "nm:2:4", "--sparsity", "0.75"], "sparsity must be 0.5 for nm:2:4, got 0.75"),
        (["--sparsity", "0.9999"], "the budget must hold a tile of each"),
        (["--batch", "5000"], "batch must be at most the 898 training images"),
        (["--pruner", "gdp", "--option", "strength=abc"], "strength must be a number, got 'abc'"),
        (["--data", "cifar"], "data must be digits, fashion, folder:PATH"),
        (["--data", "folder:nowhere"], "must be a directory"),
        (["--data", "fashion", "--data-dir", "nowhere"], "apt-get install dataset-fashion-mnist"),
        (["--temperature", "0.1", "0.2"], "temperature must be two falling values above 0"),
        (["--lr", "-1"], "lr must be above 0"),
        (["--search-steps", "0"], "search_steps must be at least 1"),
        (["--pattern", "block:axb"], "pattern 'block:axb': sizes must be whole numbers, got 'a'"),
        (["--pattern", "block:512x512"], "needs at least one nn.Linear or convolution to prune as block:512x512"),
    ],
)
def test_clear_errors(arguments, message, tmp_path, capsys):
    short = ["--model", "cnn-tiny", "--dense-steps", "1", "--pattern", "block:8x8", "--out", str(tmp_path / "out")]
    assert main(["prune", *short, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists(), "the next attempt may use it"


def test_a_file_cannot_be_the_directory(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main(["prune", *TINY, "--out", str(out)]) == 2
        assert f"--out must be a directory that can be written, got {out}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", "no tensors", "must hold config.json and model.safetensors as save() writes them"),
        ("config.json", '{"version": 99}', "config.json must be of version 1, got 99"),
        ("recipe.json", '{"modell": "cnn"}', "must hold the settings of a run as this version writes them"),
        ("report.json", "{", "must name an accuracy as prune writes it"),
    ],
)
def test_a_damaged_run(name, content, message, run, tmp_path, capsys):
    for file in prune.FILES:
        (tmp_path / file).write_bytes((run / file).read_bytes())
    (tmp_path / name).write_text(content)
    assert main(["run", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_checkpoint(tmp_path, capsys):
    command = ["prune", *TINY, "--out", str(tmp_path), "--resume"]
    (tmp_path / "training" / "dense").mkdir(parents=True)
    for content in (b"", b"half a file"):
        (tmp_path / "training" / "dense" / "state.pt").write_bytes(content)
        assert main(command) == 2
        assert "state.pt must be a whole checkpoint; delete it to train anew" in capsys.readouterr().err


def test_run_without_a_run(tmp_path, capsys):
    assert main(["run", str(tmp_path)]) == 2
    assert "must hold a finished `smart-train prune`" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["prune"], ["run"], ["demo"]])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0 and "smart-train" in capsys.readouterr().out
