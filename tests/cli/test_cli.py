"""The command line: every verb once, `--json` alone on stdout, and user errors as one paragraph with exit code 2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bitwright import Int, Recipe, Rule, Spec, per_group
from bitwright.recipe.presets import OWN, nearest, nf4, w4a16
from bitwright.recipe.text import write_recipe
from bitwright.store.artifact import open_artifact
from cli.conftest import call, refused, save_llama

SHORT = ("--samples", 8, "--length", 32)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a result but run.json, which holds times."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "run.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_plan_folds_rows_that_are_alike_in_all_blocks(model: Path) -> None:
    found = call("plan", model, "--recipe", "w4a16")
    assert found.exit_code == 0
    assert "model.layers.*" in found.stdout and "model.layers.1." not in found.stdout
    assert "predicted: peak memory" in found.stdout and "kept by default" in found.stdout


def test_plan_json_has_every_weight_and_the_cost(model: Path) -> None:
    data = json.loads(call("plan", model, "--recipe", "w4a16", "--json").stdout)
    assert len(data["weights"]) == 14 and data["cost"]["bits_per_weight"] == pytest.approx(4.15625)
    assert {one["kind"] for one in data["kept"]} == {"embedding", "head", "norm"}


def test_weights_may_be_kept_by_name(model: Path, text: Path, tmp_path: Path) -> None:
    keep = ("--keep", "*.down_proj", "--keep", "model.layers.0.self_attn.q_proj")
    data = json.loads(call("plan", model, "-r", "w4a16", *keep, "--json").stdout)
    assert len(data["weights"]) == 11
    kept = {one["name"]: one["reason"] for one in data["kept"] if one["kind"] == "linear"}
    assert len(kept) == 3 and "the recipe keeps it" in kept["model.layers.1.mlp.down_proj.weight"]
    run = ("quantize", model, "-r", "w4a16", "-c", text, *SHORT, *keep, "-o", tmp_path / "out")
    assert call(*run).exit_code == 0
    assert len(open_artifact(tmp_path / "out").entries) == 11
    assert "--keep *.dwon_proj: no weight" in refused("plan", model, "-r", "w4a16", "--keep", "*.dwon_proj")


def test_quantize_says_what_came_out_as_json(model: Path, text: Path, tmp_path: Path) -> None:
    found = call(
        "quantize", model, "-r", "w3a16", "-c", text, *SHORT, "-o", tmp_path / "out", "--to", "dense", "--json"
    )
    data = json.loads(found.stdout)
    assert data["blocks"] == 2 and data["bytes"] < data["bytes_original"]
    assert (Path(data["export"]) / "config.json").is_file()


def test_a_second_run_goes_on_where_the_first_was_stopped(model: Path, text: Path, tmp_path: Path) -> None:
    command = ("quantize", model, "-r", "w4a16", "-c", text, *SHORT, "-o", tmp_path / "out")
    assert call(*command).exit_code == 0
    before = contents(tmp_path / "out")
    for name in ("manifest.json", "blocks/00001.json", "blocks/00001.safetensors"):
        (tmp_path / "out" / name).unlink()
    found = call(*command)
    assert found.exit_code == 0 and "1 of 2 blocks were found on disk" in found.stdout
    assert contents(tmp_path / "out") == before


def test_tune_makes_another_artifact(model: Path, text: Path, finished: Path, tmp_path: Path) -> None:
    command = ("tune", finished, "-a", model, "-c", text, "--length", 32, "-o", tmp_path / "tuned")
    data = json.loads(call(*command, "--epochs", 2, "--to", "dense", "--json").stdout)
    assert data["artifact"] == str(tmp_path / "tuned") and data["bytes"] > 0
    assert data["kept"] == (data["kl_after"] < data["kl_before"])
    assert 0 <= data["codes_moved"] < 1 and (data["codes_moved"] > 0) <= data["kept"]
    assert (tmp_path / "tuned" / "export" / "dense" / "config.json").is_file()
    assert json.loads((tmp_path / "tuned" / "run.json").read_text())["peak_bytes"] > 0
    again = call(*command, "--epochs", 2)
    assert again.exit_code == 0 and "divergence on held-out rows" in again.stdout and "step" not in again.stderr
    page = call("report", tmp_path / "tuned", "-o", tmp_path / "page.html")
    assert page.exit_code == 0 and "Tuned end to end" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_tuning_for_a_form_that_cannot_hold_the_artifact_is_refused_before_it(
    model: Path, text: Path, tmp_path: Path
) -> None:
    recipe = nearest(nf4())
    (tmp_path / "nf4.toml").write_text(write_recipe(recipe))
    made = call("quantize", model, "-r", tmp_path / "nf4.toml", "-o", tmp_path / "artifact")
    assert made.exit_code == 0, made.output
    command = ("tune", tmp_path / "artifact", "-a", model, "-c", text, "--to", "compressed-tensors")
    found = call(*command, "-o", tmp_path / "tuned")
    assert found.exit_code == 2 and "dense" in found.stderr and not (tmp_path / "tuned").exists()


def test_tuning_that_needs_too_much_memory_is_refused(model: Path, text: Path, finished: Path, tmp_path: Path) -> None:
    found = call("tune", finished, "-a", model, "-c", text, "--max-ram", "1MiB", "-o", tmp_path / "tuned")
    assert found.exit_code == 2 and "is predicted to need" in found.stderr
    assert not (tmp_path / "tuned").exists()


def test_evaluate_gives_the_promised_figures(model: Path, text: Path, finished: Path) -> None:
    found = call("evaluate", finished, "--against", model, "--text", text, "--json")
    data = json.loads(found.stdout)
    wanted = {"perplexity", "perplexity_original", "kl_mean", "kl_p999", "top1_agreement", "bits_per_weight"}
    assert wanted | {"bytes", "bytes_original"} <= data.keys()
    assert 0 < data["kl_mean"] < data["kl_p999"]
    assert json.loads((finished / "scores.json").read_text())["kl_mean"] == data["kl_mean"]


@pytest.mark.parametrize("form", ["compressed-tensors", "dense"])
def test_export_writes_a_checkpoint(finished: Path, tmp_path: Path, form: str) -> None:
    found = call("export", finished, "--to", form, "-o", tmp_path / "out", "--json")
    assert found.exit_code == 0 and json.loads(found.stdout)["bytes"] > 0
    assert (tmp_path / "out" / "config.json").is_file()


def test_report_writes_a_page(finished: Path, tmp_path: Path) -> None:
    assert call("report", finished, "-o", tmp_path / "page.html").exit_code == 0
    assert "<html" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_an_unknown_preset_lists_the_known_ones(model: Path) -> None:
    assert "w4a16" in refused("plan", model, "-r", "w5a16")


def test_an_unknown_recipe_field_is_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('[[rules]]\nmatch = "*"\nweight = "int4"\n')
    assert "'weight'" in refused("plan", model, "-r", tmp_path / "r.toml")


def test_a_recipe_that_needs_data_asks_for_it(model: Path, tmp_path: Path) -> None:
    assert "--calibration" in refused("quantize", model, "-r", "w4a16", "-o", tmp_path / "out")


def test_a_text_without_tokens_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    words = refused("quantize", model, "-r", "w4a16", "-c", tmp_path / "empty.txt", "-o", tmp_path / "out")
    assert "empty" in words and not (tmp_path / "out").exists()


def test_a_row_longer_than_the_positions_is_refused(model: Path, text: Path, tmp_path: Path) -> None:
    words = refused("quantize", model, "-r", "w4a16", "-c", text, "--length", 100, "-o", tmp_path / "out")
    assert "100" in words and "64" in words


def test_a_group_that_does_not_divide_names_weight_and_remedy(tmp_path: Path) -> None:
    words = refused("plan", save_llama(tmp_path, intermediate_size=352), "-r", "w4a16")
    assert "down_proj" in words and "352" in words and "32" in words


def test_a_folder_of_another_run_is_refused(model: Path, text: Path, finished: Path) -> None:
    words = refused("quantize", model, "-r", "w3a16", "-c", text, *SHORT, "-o", finished)
    assert "different run" in words


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    assert "nowhere" in refused("plan", tmp_path / "nowhere", "-r", "w4a16")


def test_a_quantized_source_is_refused(finished: Path, tmp_path: Path) -> None:
    assert call("export", finished, "--to", "compressed-tensors", "-o", tmp_path / "ct").exit_code == 0
    assert "quantized" in refused("plan", tmp_path / "ct", "-r", "w4a16")


def test_too_little_memory_is_refused_with_the_prediction(model: Path) -> None:
    assert "GiB" in refused("plan", model, "-r", "w4a16", "--max-ram", "64MiB")


def test_another_model_than_the_source_is_refused(text: Path, finished: Path, tmp_path: Path) -> None:
    other = save_llama(tmp_path, hidden_size=64)
    assert refused("evaluate", finished, "--against", other, "--text", text)


def test_an_unknown_export_lists_the_known_ones(finished: Path, tmp_path: Path) -> None:
    assert "dense" in refused("export", finished, "--to", "gguf", "-o", tmp_path / "out")


def test_the_container_that_cannot_hold_a_format_names_dense(model: Path, text: Path, tmp_path: Path) -> None:
    assert call("quantize", model, "-r", "nf4", "-c", text, *SHORT, "-o", tmp_path / "nf4").exit_code == 0
    assert "dense" in refused("export", tmp_path / "nf4", "--to", "compressed-tensors", "-o", tmp_path / "out")


def test_ctrl_c_says_how_to_go_on(model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bitwright.cli.quantize.run", interrupt)
    found = call("quantize", model, "-r", "w4a16", "-c", text, *SHORT, "-o", tmp_path / "out")
    assert found.exit_code == 130 and "same command again" in found.stderr


def test_a_finished_run_with_an_export_may_be_repeated(model: Path, text: Path, tmp_path: Path) -> None:
    command = ("quantize", model, "-r", "w4a16", "-c", text, *SHORT, "-o", tmp_path / "out", "--to", "dense", "--json")
    assert call(*command).exit_code == 0
    times = json.loads((tmp_path / "out" / "run.json").read_text())["blocks"]
    data = json.loads(call(*command).stdout)
    assert data["blocks_resumed"] == 2 and (Path(data["export"]) / "config.json").is_file()
    assert json.loads((tmp_path / "out" / "run.json").read_text())["blocks"] == times


def test_an_export_that_was_cut_off_is_made_again(model: Path, text: Path, tmp_path: Path) -> None:
    command = ("quantize", model, "-r", "w4a16", "-c", text, *SHORT, "-o", tmp_path / "out", "--to", "dense")
    assert call(*command).exit_code == 0
    (tmp_path / "out" / "export" / "dense" / "config.json").unlink()
    assert call(*command).exit_code == 0
    assert (tmp_path / "out" / "export" / "dense" / "config.json").is_file()


def test_an_export_that_cannot_hold_the_recipe_is_refused_before_the_run(
    model: Path, text: Path, tmp_path: Path
) -> None:
    words = refused(
        "quantize", model, "-r", "nf4", "-c", text, *SHORT, "-o", tmp_path / "out", "--to", "compressed-tensors"
    )
    assert "--to dense" in words and not (tmp_path / "out").exists()
    assert "--to dense" in refused("plan", model, "-r", "nf4", "--to", "compressed-tensors")
    assert call("plan", model, "-r", "w4a16", "--to", "compressed-tensors").exit_code == 0


def test_a_recipe_without_need_of_data_runs_with_and_without(model: Path, text: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "nearest.toml"
    recipe.write_text(write_recipe(nearest(w4a16())))
    bare = call("quantize", model, "-r", recipe, "-o", tmp_path / "bare", "--json")
    measured = call("quantize", model, "-r", recipe, "-c", text, *SHORT, "-o", tmp_path / "measured", "--json")
    assert json.loads(bare.stdout)["errors"] == [None, None]
    assert all(error > 0 for error in json.loads(measured.stdout)["errors"])


def test_plan_names_fused_weights_that_are_not_stored_alike(model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mixed.toml"
    recipe.write_text(write_recipe(Recipe((Rule("*.k_proj"), *w4a16().rules))))
    warnings = json.loads(call("plan", model, "-r", recipe, "--json").stdout)["warnings"]
    fused = [text for text in warnings if "read one input" in text]
    assert len(fused) == 1 and "model.layers.*.self_attn.k_proj" in fused[0]


def test_plan_names_what_marlin_kernels_cannot_take(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(write_recipe(Recipe((Rule("*", Spec(Int(4), per_group(16), scale=OWN)),))))
    odd = save_llama(tmp_path / "odd", intermediate_size=352)
    warnings = " ".join(json.loads(call("plan", odd, "-r", recipe, "--json").stdout)["warnings"])
    assert "128 x 352" in warnings and "not 16" in warnings


def test_names_with_brackets_are_printed_as_they_are(model: Path, tmp_path: Path) -> None:
    assert "[/red]nowhere" in refused("plan", tmp_path / "[/red]nowhere", "-r", "w4a16")


def test_an_unknown_option_and_a_bad_number_exit_with_2(model: Path) -> None:
    assert call("plan", model, "-r", "w4a16", "--bits", 3).exit_code == 2
    assert call("plan", model, "-r", "w4a16", "--samples", 0).exit_code == 2


def test_the_demo_ends_with_a_page_and_two_texts_and_may_be_repeated(model: Path, text: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    for name in ("calibration.txt", "heldout.txt"):
        shutil.copyfile(text, folder / name)
    for _ in range(2):
        found = call("demo", "--model", folder, "--out", tmp_path / "demo")
        assert found.exit_code == 0, found.output
        assert found.stdout.count("The old house") == 2 and (tmp_path / "demo" / "report.html").is_file()
