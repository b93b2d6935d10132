"""Pre-sharding: every process has a folder with only its own shard of the model."""
import json
import shutil

import pytest

from dialogue import QUESTIONS, ask, client_of
from local_cluster import ClusterError

# Unequal layers, and the experts of every layer spread over all three, so that stacked tensors are cut.
SPREAD = ("--split", "3,1,2", "--experts", "round_robin:3")


@pytest.fixture
def make_shards(succeed, demo_model, tmp_path):
    """make_shards(cluster, placement, words...) -> the folder with the shards of a plan for the cluster's addresses."""
    def make(cluster, placement=SPREAD, *words, source=demo_model):
        workers = ("--workers", ",".join(cluster.addresses)) if cluster.addresses else ()
        (tmp_path / "plan.json").write_text(succeed("plan", "--model", source, "--json", *workers, *placement))
        out = tmp_path / "shards"
        succeed("convert", "--model", source, "--shard-for", tmp_path / "plan.json", "--out", out, *words)
        return out
    return make


@pytest.fixture
def with_shards(make_cluster, make_shards, demo_model):
    """with_shards(placement, words...) -> an unstarted cluster of three, whose processes see only their own shard."""
    def make(placement=SPREAD, *words, **options):
        cluster = make_cluster(2, start=False, serve_args=("--liveness-timeout", "120"))
        out = make_shards(cluster, placement, *words, **options)
        for worker, address in zip(cluster.workers, cluster.addresses):
            root = out / address
            at = worker.argv.index("--model-root") + 1
            worker.argv[at] = str(root)
            assert [folder.name for folder in root.iterdir()] == [demo_model.name]
        argv = cluster.coordinator.argv
        argv[argv.index("--model") + 1] = str(out / "coordinator" / demo_model.name)
        at = argv.index("--workers")
        argv[at:at + 2] = ["--plan", str(out / "plan.json")]
        return cluster, out
    return make


def files_of(folder):
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


@pytest.mark.parametrize("placement", [SPREAD, (*SPREAD, "--coordinator-without-layers")[2:]],
                         ids=["layers-and-experts", "coordinator-without-layers"])
def test_processes_with_shards_answer_like_the_whole_model(with_shards, demo_model, single, placement):
    cluster, out = with_shards(placement)
    # The head is the embedding, so the first and the last node have it; all else is there once.
    sizes = [files_of(folder) for folder in out.iterdir() if folder.is_dir()]
    assert len(sizes) == 3 and max(sizes) < 0.7 * files_of(demo_model)
    assert not (out / cluster.addresses[0] / demo_model.name / "tokenizer.json").exists()
    cluster.start()
    alone, apart = client_of(single), client_of(cluster)
    for seed, question in enumerate(QUESTIONS):
        assert ask(apart, question) == ask(alone, question)
        drawn = {"temperature": 1.5, "seed": seed, "max_tokens": 100}  # Depends on the last bits of logits.
        assert ask(apart, question, **drawn) == ask(alone, question, **drawn)
    assert cluster.status()["model"]["hash"] == single.status()["model"]["hash"]


def test_shards_and_whole_folders_work_together(with_shards, demo_model):
    cluster, out = with_shards()
    cluster.coordinator.argv[cluster.coordinator.argv.index("--model") + 1] = str(demo_model)
    worker = cluster.workers[0]
    worker.argv[worker.argv.index("--model-root") + 1] = str(demo_model.parent)
    cluster.start()
    assert "Lisbon" in ask(client_of(cluster), QUESTIONS[0])


def test_quantized_shards_answer_like_the_quantized_model(with_shards, make_cluster, succeed, demo_model, tmp_path):
    whole = tmp_path / "whole" / demo_model.name
    succeed("convert", "--model", demo_model, "--out", whole, "--quant", "affine-8-g64")
    cluster, _ = with_shards(SPREAD, "--quant", "affine-8-g64", "--shard", "300KB")
    cluster.start()
    alone = make_cluster(0, model=whole)
    for question in QUESTIONS[:3]:
        assert ask(client_of(cluster), question) == ask(client_of(alone), question)
    assert cluster.status()["model"]["hash"] == alone.status()["model"]["hash"]


def test_a_worker_names_the_layer_of_the_plan_that_its_shard_lacks(with_shards, succeed, demo_model):
    cluster, out = with_shards()
    plan = json.loads((out / "plan.json").read_text())
    plan["stages"][0]["layers"], plan["stages"][1]["layers"] = [0, 2], [2, 4]  # Layer 2 goes to the first worker.
    (out / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(ClusterError):
        cluster.start(timeout_s=15)
    log = cluster.coordinator.log()
    assert "worker-1" in log and "layer 2" in log and "model.layers.2." in log and "--shard-for" in log
    assert f"shard of node '{cluster.addresses[0]}' (layers [3, 4)" in log


def test_an_expert_that_a_worker_lacks_is_named(with_shards):
    cluster, out = with_shards()
    plan = json.loads((out / "plan.json").read_text())
    owners = plan["experts"][0]["owners"]
    first, second = cluster.addresses
    owners[first], owners[second] = owners[second], owners[first]
    (out / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(ClusterError):
        cluster.start(timeout_s=15)
    assert "expert 2 of layer 0" in cluster.coordinator.log() and "matrix 2 of 16" in cluster.coordinator.log()


def test_a_shard_of_another_model_is_refused(with_shards, make_cluster, succeed, demo_model):
    cluster, out = with_shards()
    folder = out / cluster.addresses[0] / demo_model.name
    config = json.loads((folder / "config.json").read_text())
    config["rope_theta"] = 20000.0
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ClusterError):
        cluster.start(timeout_s=15)
    assert "another model" in cluster.coordinator.log()


def test_a_folder_with_files_of_two_shards_is_refused(make_cluster, make_shards, run, demo_model):
    cluster = make_cluster(2, start=False)
    out = make_shards(cluster)
    first, second = (out / address / demo_model.name for address in cluster.addresses)
    shutil.copy(second / "model.safetensors", first / "model.safetensors")
    done = run("inspect", "--model", first)
    assert done.returncode == 2 and "shoal-shard.json" in done.stderr and "--shard-for" in done.stderr


def test_interrupted_sharding_can_be_continued(make_cluster, make_shards, succeed, run, demo_model, tmp_path):
    cluster = make_cluster(2, start=False)
    out = make_shards(cluster, SPREAD, "--shard", "300KB")
    words = ("convert", "--model", demo_model, "--shard-for", tmp_path / "plan.json", "--out", out, "--shard", "300KB")
    written = {file: file.read_bytes() for file in out.rglob("*.safetensors")}
    assert len(written) > 6
    gone = sorted(written)[1]
    gone.unlink()
    (gone.parent / "config.json").unlink()
    assert f"{len(written) - 1} of {len(written)} files were there" in succeed(*words)
    assert gone.read_bytes() == written[gone]
    shard = json.loads(succeed("inspect", "--model", out / cluster.addresses[0] / demo_model.name, "--json"))["share"]
    assert shard["node"] == cluster.addresses[0] and shard["holds"].startswith("layers [3, 4)")
    refused = run("convert", "--model", out / "coordinator" / demo_model.name, "--out", tmp_path / "x", "--quant", "bf16")
    assert refused.returncode == 1 and "give the whole model" in refused.stderr
