"""List what is mutated, and the tests that have to notice."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Area:
    """Patterns of files, and the test files, or tests, that have to notice their mutants."""

    files: tuple[str, ...]
    tests: tuple[str, ...]

    def paths(self) -> list[str]:
        """Return the files, relative to the root, sorted."""
        found = {path for pattern in self.files for path in ROOT.glob(pattern) if path.name != "__init__.py"}
        return sorted(path.relative_to(ROOT).as_posix() for path in found)


AREAS = {
    "soft top-k": Area(
        ("smart_kernels/reference/topk/*.py", "smart_kernels/reference/common/soft_mask.py"),
        ("tests/ops/topk/test_soft_topk.py", "tests/ops/topk/test_smart_weight.py"),
    ),
    "budget": Area(
        ("smart_kernels/patterns/budget.py", "smart_train/schedule.py"),
        ("tests/train/test_schedule.py", "tests/train/test_budget.py", "tests/test_patterns.py"),
    ),
    "pools": Area(
        ("smart_train/masks/[!sw]*.py", "smart_train/masks/sharing.py"),
        (
            "tests/train/test_budget.py",
            "tests/train/test_pruner_masks.py",
            "tests/train/test_pruner_state.py",
            "tests/train/test_pruner.py",
            "tests/train/test_coupled.py",
            "tests/train/test_copies.py",
            "tests/train/test_pools.py",
            "tests/train/test_graphed.py::test_training_in_graphs_is_training",
            "tests/train/test_graphed.py::test_the_model_itself_stays_as_it_is",
            "tests/train/test_planning.py::test_the_budget_is_corrected_once_by_what_was_measured",
        ),
    ),
    "formats": Area(
        tuple(f"smart_kernels/formats/{name}.py" for name in ("[bdeijpuvwz]*", "c[os]*")),
        ("tests/test_formats.py", "tests/test_jit.py", "tests/test_processor.py"),
    ),
    "following": Area(
        tuple(f"smart_kernels/convert/channels/{name}.py" for name in ("follow*", "o*", "p*", "record", "rules")),
        ("tests/test_following.py", "tests/test_slim.py", "tests/test_heads.py", "tests/test_width.py"),
    ),
    "slimming": Area(
        tuple(f"smart_kernels/convert/channels/{name}.py" for name in ("slim", "re[!c]*", "couple", "ties")),
        (
            "tests/test_slim.py",
            "tests/train/test_coupled.py",
            "tests/test_following.py",
            "tests/test_width.py::test_half_of_the_width_leaves",
            "tests/test_width.py::test_a_size_taken_from_the_stream_makes_it_stay",
        ),
    ),
    "choice": Area(
        (
            "smart_kernels/convert/measure/choice.py",
            *(f"smart_kernels/convert/compress/{name}.py" for name in ("a*", "select", "settings", "usable", "whole")),
        ),
        (
            "tests/test_compress.py",
            "tests/test_fusing.py::test_what_fails_fused_stays_apart",
            "tests/test_fusing.py::test_what_is_not_faster_fused_stays_apart",
            "tests/test_fusing.py::test_compressed_again_nothing_old_is_left",
            "tests/test_transactions.py::test_a_layer_that_changes_the_whole_model_is_taken_back",
        ),
    ),
    "checkpoint": Area(
        ("smart_train/run/checkpoint.py", "smart_train/run/fits.py"),
        (
            "tests/train/test_checkpoint.py",
            "tests/train/test_resume.py::test_killed_and_continued_equals_uninterrupted",
            "tests/train/test_resume.py::test_random_states_come_back",
            "tests/train/test_resume.py::test_states_of_gpus_come_back",
            "tests/train/test_resume.py::test_a_seed_is_that_of_all_generators",
            "tests/train/test_resume.py::test_a_file_is_on_the_disk_before_it_takes_its_place_and_its_name_after",
            "tests/train/test_resume.py::test_a_kill_while_writing_leaves_the_old_checkpoint",
        ),
    ),
    "save": Area(("smart_kernels/convert/saving/*.py",), ("tests/test_save.py", "tests/test_saved_files.py")),
}
