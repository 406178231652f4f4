"""A study's pictures show the records' numbers, fit on their canvas, and come where they can."""

import itertools
from collections.abc import Mapping

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tests.reporting import study_records
from xent_jax.reporting import results
from xent_jax.reporting.pictures import Picture, curves, draw_study, ranks, style
from xent_jax.reporting.study import load_study

TWELVE = (
    *("CE", "GCE", "SCE", "Forward", "ELR", "Co-teaching", "NCE+RCE", "MAE", "Peer loss"),
    *("Label smoothing 0.1", "Focal gamma=2", "Bootstrapping (hard)"),
)


class Drawn:
    """The pictures of a study, and their figures by name."""

    def __init__(self, folder, patch, **study):
        self.figures: dict[str, Figure] = {}
        savefig = Figure.savefig

        def keep(figure, path, **keywords):
            self.figures[path.stem] = figure
            savefig(figure, path, **keywords)

        patch.setattr(Figure, "savefig", keep)
        patch.setitem(style.SMALL, "savefig.dpi", 50)
        self.study = load_study(study_records.write_study(folder / "study", **study))
        self.results = results.measure(self.study)
        self.pictures = draw_study(self.study, self.results, folder / "pictures")
        self.names = [picture.png.stem for picture in self.pictures]


@pytest.fixture(scope="module")
def draw(tmp_path_factory):
    def drawn(**study) -> Drawn:
        with pytest.MonkeyPatch.context() as patch:
            return Drawn(tmp_path_factory.mktemp("drawn"), patch, **study)

    return drawn


@pytest.fixture(scope="module")
def noisy(draw) -> Drawn:
    return draw(diverged=("SCE-0.8-1",), unfinished=("GCE-0.4-2",))


@pytest.fixture(scope="module")
def rare(draw) -> Drawn:
    conditions = {"imbalance.ratio": (1, 100)}
    return draw(methods=TWELVE, conditions=conditions, seeds=1, epochs=1)


@pytest.fixture(scope="module")
def few_shot(draw) -> Drawn:
    return draw(conditions={"few_shot.name": ("a", "b")}, few_shot=True)


def texts(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]


def lines(ax) -> Mapping[str, np.ndarray]:
    return {line.get_color(): np.asarray(line.get_xydata()) for line in ax.lines}


def measured(drawn: Drawn, method: str, path: str, **conditions) -> np.ndarray:
    """Returns the last numbers of the runs that finished."""
    section, name = path.split(".")
    return np.asarray(
        [
            run.records[-1][section][name]
            for run in drawn.study.runs
            if run.method == method
            and run.status == "finished"
            and list(run.conditions.values()) == list(conditions.values())
        ]
    )


def test_what_the_records_hold_is_drawn_as_png_and_as_pdf(noisy, rare, few_shot):
    each = ["against_condition", "average_ranks"]
    per_condition = [f"{name}_{i}" for name in ("reliability", "embedding") for i in (1, 2, 3)]
    assert noisy.names == [*each, "over_epochs", "class_recall", *per_condition]
    two = [name for name in per_condition if not name.endswith("3")]
    assert rare.names == [*each, "class_groups", "class_recall", *two]
    assert few_shot.names == ["against_shots", "average_ranks", "over_epochs"]
    for picture in (*noisy.pictures, *rare.pictures, *few_shot.pictures):
        assert picture.png.read_bytes().startswith(b"\x89PNG")
        assert picture.pdf.read_bytes().startswith(b"%PDF")
        assert isinstance(picture, Picture)
        assert picture.title
        assert picture.caption
        assert picture.inches <= style.FULL


def test_the_same_records_give_the_same_files(draw):
    one, other = (draw(methods=("CE",), conditions={}, seeds=2) for _ in range(2))
    assert one.names == ["over_epochs", "class_recall", "reliability_1", "embedding_1"]
    for picture, again in zip(one.pictures, other.pictures, strict=True):
        assert picture.png.read_bytes() == again.png.read_bytes()
        assert picture.pdf.read_bytes() == again.pdf.read_bytes()


def test_nothing_is_drawn_of_a_sweep_that_has_just_begun(draw):
    ids = [f"CE-{rate}-0" for rate in (0.0, 0.4)]
    began = draw(
        methods=("CE",), conditions={"corruption.rate": (0.0, 0.4)}, seeds=1, unfinished=ids
    )
    assert began.pictures == []


def test_lines_are_means_of_the_runs_that_finished_and_bands_their_deviation(noisy):
    (ax,) = noisy.figures["against_condition"].axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("noise rate", "test accuracy")
    of = lines(ax)
    for method, colour in zip(study_records.METHODS, style.COLOURS, strict=False):
        for rate, mean in of[colour]:
            numbers = measured(noisy, method, "test.accuracy", rate=rate)
            assert len(numbers) == {("SCE", 0.8): 2, ("GCE", 0.4): 2}.get((method, rate), 3)
            np.testing.assert_allclose(mean, numbers.mean())
    numbers = measured(noisy, "CE", "test.accuracy", rate=0.4)
    heights = ax.collections[0].get_paths()[0].vertices
    heights = heights[np.isclose(heights[:, 0], 0.4), 1]
    spread = numbers.std(ddof=1)
    np.testing.assert_allclose(
        [heights.min(), heights.max()], numbers.mean() + np.asarray([-spread, spread])
    )


def test_ratios_that_grow_tenfold_stand_at_equal_distances(rare, noisy):
    (ax,) = rare.figures["against_condition"].axes
    assert ax.get_xscale() == "log"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "100"]
    assert noisy.figures["against_condition"].axes[0].get_xscale() == "linear"


def test_a_row_of_conditions_is_a_panel_if_it_has_several_values():
    conditions = [
        {"noise": "uniform", "rate": 0.6},
        {"noise": "pair", "rate": 0.4},
        {"noise": "uniform", "rate": 0},
    ]
    assert curves._rows_along("rate", conditions) == [({"noise": "uniform"}, [0, 0.6])]
    assert curves._numeric_axis(conditions) == "rate"
    assert curves._numeric_axis(conditions[:1]) is None


def test_epochs_have_a_panel_per_condition_for_accuracy_and_for_memorised_labels(noisy):
    axes = noisy.figures["over_epochs"].axes
    titles = ["noise rate 0", "noise rate 0.4", "noise rate 0.8"]
    assert [ax.get_title(loc="left") for ax in axes] == [*titles, "", "", ""]
    assert [ax.get_ylabel() for ax in axes[::3]] == ["test accuracy", "wrong labels memorised"]
    assert [len(ax.lines) for ax in axes] == [3, 3, 3, 0, 3, 3]
    assert "no wrong labels" in texts(noisy.figures["over_epochs"])
    epochs = [1, 2, 3, 4]
    np.testing.assert_allclose(
        axes[5].lines[0].get_xydata(), np.stack([epochs, [0.2, 0.4, 0.6, 0.8]], 1)
    )
    assert len({ax.get_ylim() for ax in axes[:3]}) == len({ax.get_ylim() for ax in axes[3:]}) == 1


def test_bars_stand_for_groups_of_classes(rare):
    axes = rare.figures["class_groups"].axes
    assert len(axes) == 2
    ticks = [t.get_text() for t in axes[0].get_xticklabels()]
    assert ticks == ["many examples", "medium examples", "few examples"]
    heights = [bar.get_height() for bar in axes[0].patches]
    expected = [
        measured(rare, method, f"test.{group}_accuracy", ratio=1).mean()
        for method in TWELVE
        for group in ("many", "medium", "few")
    ]
    np.testing.assert_allclose(heights, expected)
    assert len({round(bar.get_x(), 6) for bar in axes[0].patches}) == 36  # beside each other
    hatches = {(bar.get_facecolor(), bar.get_hatch()) for bar in axes[0].patches}
    assert len(hatches) == 12


def test_recall_has_a_row_per_method_and_a_column_per_class(noisy):
    axes = noisy.figures["class_recall"].axes
    shares = axes[2].images[0].get_array()
    assert shares.shape == (3, study_records.CLASSES)
    recall = measured(noisy, "SCE", "test.per_class_recall", rate=0.8)
    np.testing.assert_allclose(shares[2], recall.mean(axis=0))
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["CE", "GCE", "SCE"]
    assert f"{100 * recall.mean(axis=0)[0]:.0f}" in texts(noisy.figures["class_recall"])


def test_reliability_is_of_all_seeds_predictions_together(noisy):
    axes = noisy.figures["reliability_2"].axes
    assert [ax.get_title(loc="left") for ax in axes] == ["CE", "GCE", "SCE"]
    assert [bar.get_height() for bar in axes[0].containers[0]][1:] == pytest.approx([0.45, 0.85])
    assert "ECE 5.0%" in texts(noisy.figures["reliability_2"])


def test_embeddings_name_their_classes(noisy):
    shown = texts(noisy.figures["embedding_1"])
    assert [shown.count(str(k)) for k in range(study_records.CLASSES)] == [3] * 4
    points = [len(c.get_offsets()) for c in noisy.figures["embedding_1"].axes[0].collections]
    assert points == [10] * 4


def test_shots_have_intervals_over_the_seeds(few_shot):
    axes = few_shot.figures["against_shots"].axes
    assert [ax.get_title(loc="left") for ax in axes] == ["few shot a", "few shot b"]
    line, _, (bars,) = axes[0].containers[0]
    runs = [r for r in few_shot.study.runs if (r.method, *r.conditions.values()) == ("CE", "a")]
    numbers = np.asarray([run.records[-1]["shots"]["1"]["accuracy"] for run in runs])
    half = 4.302652729911275 * numbers.std(ddof=1) / np.sqrt(3)  # Student's t of 2 degrees
    assert line.get_ydata()[0] == pytest.approx(numbers.mean())
    low, high = bars.get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((numbers.mean() - half, numbers.mean() + half))


def test_one_seed_has_the_interval_of_its_episodes(draw):
    one = draw(methods=("CE",), conditions={}, seeds=1, epochs=1, few_shot=True)
    _, _, (bars,) = one.figures["against_shots"].axes[0].containers[0]
    low, high = bars.get_segments()[0][:, 1]
    assert high - low == pytest.approx(2 * 0.004)
    assert one.names == ["against_shots"]


@pytest.mark.parametrize("name", ["against_condition", "class_groups", "average_ranks"])
def test_twelve_methods_are_told_apart_within_the_picture(rare, name):
    figure = rare.figures[name]
    renderer = FigureCanvasAgg(figure).get_renderer()
    width, height = figure.get_size_inches() * figure.dpi
    shown = [text for legend in figure.legends for text in legend.get_texts()]
    shown += [text for ax in figure.axes for text in (*ax.texts, ax.xaxis.label, ax.yaxis.label)]
    boxes = {t.get_text(): t.get_window_extent(renderer) for t in shown if t.get_text()}
    for text, box in boxes.items():
        assert -1 <= box.x0 <= box.x1 <= width + 1, text
        assert -1 <= box.y0 <= box.y1 <= height + 1, text
    named = [box.padded(-1) for text, box in boxes.items() if text.startswith(TWELVE)]
    assert len(named) == 12
    assert not any(a.overlaps(b) for a, b in itertools.combinations(named, 2))


def test_a_long_legend_leaves_the_panel_its_height(rare, noisy):
    few, many = (each.figures["against_condition"] for each in (noisy, rare))
    inches = [f.axes[0].get_position().height * f.get_figheight() for f in (few, many)]
    assert inches[1] == pytest.approx(inches[0], rel=0.1)


def test_methods_have_marks_of_their_own_without_colour_too():
    marks = style.marks_of(TWELVE)
    assert len({(mark.line, mark.marker) for mark in marks.values()}) == 12
    assert len({(mark.colour, mark.line) for mark in marks.values()}) == 12


def test_bars_join_the_longest_stretches_of_ranks_that_do_not_differ():
    assert ranks.alike([1.0, 1.5, 2.4, 4.0, 4.1], 1.0) == [(0, 1), (1, 2), (3, 4)]
    assert ranks.alike([1.0, 1.5, 1.9], 1.0) == [(0, 2)]
    assert ranks.alike([1.0, 3.0], 1.0) == []


def test_average_ranks_tell_the_difference_that_counts(noisy):
    shown = texts(noisy.figures["average_ranks"])
    ranking = noisy.results.ranking
    assert f"critical difference {ranking.critical_difference:.2f}" in shown
    assert {f"{m}  {rank:.2f}" for m, rank in ranking.average.items()} <= set(shown)


def test_a_method_that_the_config_names_no_more_is_drawn_still(tmp_path):
    folder = study_records.write_study(tmp_path / "study", methods=("CE", "GCE"), seeds=2)
    study = load_study(folder)
    fewer = {**study.config, "methods": [{"label": "CE"}]}
    study = study._replace(config=fewer)
    assert draw_study(study, results.measure(study), tmp_path / "pictures")
