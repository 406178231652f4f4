"""Pictures show the records' numbers, whatever keys are missing, and fit on their canvas."""

import itertools

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from xent_jax.errors import UserError
from xent_jax.reporting import plots


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Calls a drawing function and returns its figure, drawn and written to a file."""

    def draw(function, *arguments, **keywords) -> Figure:
        figures, savefig, path = [], Figure.savefig, tmp_path / "picture.png"

        def keep(self, *args, **kwargs):
            figures.append(self)
            savefig(self, *args, **kwargs)

        monkeypatch.setattr(Figure, "savefig", keep)
        monkeypatch.setitem(plots.STYLE, "savefig.dpi", 60)
        before = dict(matplotlib.rcParams)
        function(*arguments, path=path, **keywords)
        assert dict(matplotlib.rcParams) == before
        assert path.read_bytes().startswith(b"\x89PNG")
        return figures[0]

    return draw


def run(epochs: int, *, rate: float = 0.4, loss: str = "a", **groups) -> list[dict]:
    config = {
        "dataset": {"name": "digits"},
        "model": {"name": "mlp"},
        "corruption": {"name": "symmetric", "rate": rate},
        "loss": {"name": loss},
    }
    return [
        {
            "epoch": epoch,
            "test": {"accuracy": 0.9 + epoch / 100},
            "train": {"loss": 1 / epoch},
            "config": config,
        }
        | groups
        for epoch in range(1, epochs + 1)
    ]


def texts(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]


def test_learning_curves_show_every_run_and_its_last_value(drawn):
    memorised = {"wrong_labels": {"memorised": 0.125}}
    runs = {"first_loss": run(5, loss="a", **memorised), "second": run(3, loss="b")}
    figure = drawn(plots.learning_curve, runs)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["test accuracy", "training loss (each its own)", "wrong labels memorised"]
    first, second, reference = figure.axes[0].lines
    np.testing.assert_allclose(first.get_xydata()[:, 0], [1, 2, 3, 4, 5])
    np.testing.assert_allclose(second.get_xydata()[:, 1], [0.91, 0.92, 0.93])
    assert list(reference.get_ydata()) == [0.6, 0.6]
    shown = texts(figure)
    for text in ("95.0%", "93.0%", "0.2", "0.333", "12.5%", "first loss", "second"):
        assert text in shown, text
    assert "digits, mlp, 40% of the training labels are wrong" in shown


def test_without_noise_there_is_no_reference(drawn):
    figure = drawn(plots.learning_curve, {"a": run(3, rate=0.0)})
    assert [len(ax.lines) for ax in figure.axes] == [1, 1]
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["test accuracy", "training loss"]
    assert "digits, mlp" in texts(figure)


def test_last_values_do_not_overlap_and_lie_within_the_picture(drawn):
    runs = {f"a_loss_with_a_long_name_{i}": run(4) for i in range(5)}
    figure = drawn(plots.learning_curve, runs, title="five equal runs")
    renderer = FigureCanvasAgg(figure).get_renderer()
    width, height = figure.get_size_inches() * figure.dpi
    for ax in figure.axes:
        boxes = [
            text.get_window_extent(renderer) for text in ax.texts if text.get_color() != "#606060"
        ]
        assert len(boxes) == 5
        boxes.sort(key=lambda box: box.y0)
        assert all(a.y1 <= b.y0 + 1 for a, b in itertools.pairwise(boxes))
        assert all(box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)
    (legend,) = figure.legends
    assert legend.get_window_extent(renderer).x1 <= width


@pytest.mark.parametrize("epochs", [1, 2, 60])
@pytest.mark.parametrize("accuracy", [0.0, 0.1, 0.6, 1.0])
def test_nothing_overlaps_however_few_or_flat_the_points_are(drawn, epochs, accuracy):
    flat = {"test": {"accuracy": accuracy}, "train": {"loss": 2.3}}
    flat["wrong_labels"] = {"memorised": accuracy}
    names = ("softmax_cross_entropy_with_integer_labels", "generalized_cross_entropy")
    figure = drawn(plots.learning_curve, {name: run(epochs, loss=name, **flat) for name in names})
    renderer = FigureCanvasAgg(figure).get_renderer()
    (legend,) = figure.legends
    panels = [ax.get_tightbbox(renderer) for ax in figure.axes]
    assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(panels))
    assert all(panel.y1 <= legend.get_window_extent(renderer).y0 for panel in panels)
    low, high = figure.axes[0].get_ylim()
    assert low <= min(accuracy, 0.6)
    assert max(accuracy, 0.6) <= high
    left, right = figure.axes[0].get_xlim()
    assert right - left >= 1
    assert left <= epochs <= right


def test_a_long_legend_leaves_the_panels_their_height(drawn):
    name = "softmax_cross_entropy_with_integer_labels_number_{}".format
    few = drawn(plots.learning_curve, {name(0): run(2)}).axes[0]
    many = drawn(plots.learning_curve, {name(i): run(2) for i in range(14)}).axes[0]
    assert many.get_window_extent().height >= 0.95 * few.get_window_extent().height


def test_missing_keys_are_left_out(drawn):
    runs = {
        "empty": [],
        "no test": [{"epoch": 1, "train": {"loss": 2.0}}, {"epoch": 2, "train": None}],
        "gap": [{"epoch": e, "train": {"loss": x}} for e, x in ((1, 1.0), (2, float("nan")))],
        "no epoch": [{"train": {"loss": 1.0}}],
    }
    figure = drawn(plots.learning_curve, runs)
    (ax,) = figure.axes
    assert [len(line.get_xdata()) for line in ax.lines] == [0, 1, 2, 0]
    with pytest.raises(UserError, match="no record holds"):
        plots.learning_curve({"a": [{"epoch": 1}]}, "nowhere.png")


def test_confusion_matrix_tells_counts_and_shares(drawn):
    matrix = np.asarray([[30, 10, 0], [0, 0, 0], [1, 0, 199]])
    figure = drawn(plots.confusion_matrix, matrix, ("cat", "dog", "x" * 40), title="a_run")
    shown = texts(figure)
    for text in ("30\n75%", "10", "1", "199\n100%", "cat", "true class"):
        assert text in shown, text
    assert "a run\n229 of 240 right (95.4%)" in shown
    np.testing.assert_allclose(figure.axes[0].images[0].get_array()[0], [0.75, 0.25, 0])
    assert "0" not in shown  # cells without examples stay empty


@pytest.mark.parametrize("classes", [1, 2, 26, 100])
def test_confusion_matrices_of_any_size_have_legible_names(drawn, classes):
    names = [f"class {i}" for i in range(classes)]
    figure = drawn(plots.confusion_matrix, np.eye(classes, dtype=int) * 12345, names)
    renderer = FigureCanvasAgg(figure).get_renderer()
    labels = [label for label in figure.axes[0].get_yticklabels() if label.get_text()]
    assert len(labels) == classes
    assert all(label.get_fontsize() >= 5 for label in labels)
    boxes = sorted((label.get_window_extent(renderer) for label in labels), key=lambda b: b.y0)
    assert all(a.y1 <= b.y0 + 1 for a, b in itertools.pairwise(boxes))


def test_confusion_matrix_without_names_or_examples(drawn):
    figure = drawn(plots.confusion_matrix, [[0, 0], [0, 0]], None)
    assert "0 of 0 right (0.0%)" in texts(figure)


def test_confusion_matrix_says_what_is_wrong():
    with pytest.raises(UserError, match=r"square and not empty, got \(1, 2\)"):
        plots.confusion_matrix([[1, 2]], None, "nowhere.png")
    with pytest.raises(UserError, match="3 class names for a confusion matrix of 2 classes"):
        plots.confusion_matrix(np.eye(2), ["a", "b", "c"], "nowhere.png")


def test_reliability_diagram_tells_the_calibration_error(drawn):
    count = np.asarray([0, 10, 30])
    accuracy, confidence = np.asarray([np.nan, 0.5, 0.8]), np.asarray([np.nan, 0.6, 0.9])
    figure = drawn(plots.reliability_diagram, count, accuracy, confidence, title="a")
    assert "a\nexpected calibration error 10.0%" in texts(figure)


def test_reliability_diagram_tells_over_confidence_from_under_confidence(drawn):
    count = np.asarray([0, 10, 30])
    accuracy, confidence = np.asarray([np.nan, 0.5, 0.9]), np.asarray([np.nan, 0.6, 0.8])
    figure = drawn(plots.reliability_diagram, count, accuracy, confidence)
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["accuracy", "over-confident", "under-confident"]
    bars, over, under = figure.axes[0].containers
    assert [group.get_label() for group in (bars, over, under)] == labels
    np.testing.assert_allclose([bar.get_height() for bar in bars], accuracy)
    np.testing.assert_allclose([bar.get_height() for bar in over], [np.nan, 0.1, 0])
    np.testing.assert_allclose([bar.get_height() for bar in under], [np.nan, 0, -0.1])
    np.testing.assert_allclose([bar.get_y() for bar in (*over, *under)], [*accuracy, *accuracy])
    colours = [group[0].get_facecolor() for group in (bars, over, under)]
    assert colours == [handle.get_facecolor() for handle in legend.get_patches()]
    assert len(set(colours)) == 3
    renderer = FigureCanvasAgg(figure).get_renderer()
    box = legend.get_window_extent(renderer)
    assert box.x0 >= 0
    assert box.x1 <= figure.get_size_inches()[0] * figure.dpi
    assert all(box.y1 <= ax.get_tightbbox(renderer).y0 for ax in figure.axes)
