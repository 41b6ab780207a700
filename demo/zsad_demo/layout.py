"""The components of the page and their layout; ``handlers.py`` has the events."""

from __future__ import annotations

from types import SimpleNamespace

import gradio as gr

from zsad_demo.methods import MethodOption
from zsad_demo.rendering import COLUMNS
from zsad_demo.uploads import MEGABYTES, PICTURES, REFERENCES

HEAD = """<div id="top"><h1>zsad: zero-shot visual anomaly detection</h1>
<p>Upload pictures of one kind of object. Each gets an anomaly score, an anomaly map and a verdict, without training on that
object. The model runs on the machine that serves this page; your files are deleted when you close the page.</p></div>"""
EMPTY = """<div class="summary"><p class="soft">No pictures yet. Upload some, or load an example.</p></div>"""


def theme() -> gr.themes.Base:
    """System fonts (nothing is fetched), calm greys, one accent."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "sans-serif"]
    mono = ["ui-monospace", "Menlo", "Consolas", "monospace"]
    return gr.themes.Default(
        primary_hue="indigo",
        neutral_hue="slate",
        radius_size="md",
        text_size="md",
        spacing_size="md",
        font=fonts,
        font_mono=mono,
    )


def inputs(options: dict[str, MethodOption], examples: dict[str, str]) -> SimpleNamespace:
    """The left column: pictures, object name, references, defect words, method."""
    ui = SimpleNamespace()
    ui.pictures = gr.File(
        label=f"Pictures (up to {PICTURES}, {MEGABYTES} MB each)", file_count="multiple", height=170, elem_id="pictures"
    )
    with gr.Row(elem_id="examples"):
        ui.examples = {
            key: gr.Button(f"Example: {title}", size="sm", elem_id=f"example-{key}") for key, title in examples.items()
        }
    ui.target = gr.Textbox(label="Object name", value="object", max_length=100, placeholder="metal nut")
    with gr.Accordion("References, defect words, method", open=False, elem_id="more"):
        ui.references = gr.File(
            label=f"Reference images (normal, up to {REFERENCES})", file_count="multiple", height=140, elem_id="references"
        )
        ui.words = gr.Textbox(
            label="Defect words (optional)",
            placeholder="scratch, hole",
            max_length=300,
            info="Raises the score of these defects: scratch, crack, hole, stain, contamination, broken, colour, bent, "
            "missing. A wrong word is worse than none.",
        )
        with gr.Row():
            ui.focus = gr.Textbox(
                label="Look for (optional)", placeholder="scratch", max_length=300, elem_id="focus", min_width=140
            )
            ui.ignored = gr.Textbox(
                label="Do not look at (optional)", placeholder="lighting", max_length=300, elem_id="ignored", min_width=140
            )
        gr.Markdown(
            "For winclip and laft, whose pictures and words lie in one space. compact has no such space.", elem_classes="soft"
        )
        ui.method = gr.Dropdown([(one.label, one.name) for one in options.values()], value="compact", label="Method")
        ui.method_note = gr.Markdown(options["compact"].note, elem_classes="soft")
        ui.agree = gr.Checkbox(label="Download the weights", value=False, visible=False)
        ui.inside = [ui.references, ui.words, ui.focus, ui.ignored]  # an exported model has what they say inside
    ui.clicked = gr.Number(0, visible=False)  # ms, by the visitor's clock
    with gr.Row():
        ui.inspect = gr.Button("Inspect", variant="primary", scale=3, elem_id="inspect")
        ui.stop = gr.Button("Stop", scale=1, min_width=80, elem_id="stop")
    return ui


def outputs(ui: SimpleNamespace, asked: str = "") -> SimpleNamespace:
    """The right column: verdicts, thresholds, and a tab for each kind of work on them; ``asked``: who explains pictures."""
    ui.status = gr.HTML(EMPTY, elem_id="status")
    with gr.Row():
        ui.anomalous = gr.Slider(0, 2, 1, step=0.001, label="Anomaly threshold", elem_id="anomalous", buttons=[], min_width=200)
        ui.review = gr.Slider(0, 2, 1, step=0.001, label="Review threshold", elem_id="review", buttons=[], min_width=200)
        ui.reset = gr.Button("Reset thresholds", size="sm", scale=0, min_width=150, elem_id="reset")
    with gr.Tab("Pictures", elem_id="tab-pictures"):
        _pictures(ui, asked)
    with gr.Tab("Table"):
        kinds = ["number", "str", "str", "number", "str"]
        ui.table = gr.Dataframe(
            headers=list(COLUMNS),
            datatype=kinds,
            interactive=False,
            wrap=True,
            show_search="filter",
            elem_id="table",
            label="Most anomalous first; click a heading to sort, a row to select the picture",
            max_height=600,
        )
    with gr.Tab("Calibration"):
        _calibration(ui)
    with gr.Tab("Prompt effects"):
        _prompt_effects(ui)
    with gr.Tab("Kinds", elem_id="tab-kinds"):
        _kinds(ui)
    with gr.Tab("Download"):
        gr.Markdown(
            "The results as `zsad predict` writes them (predictions.jsonl and .csv, overlays, masks, anomaly maps, "
            "report.html), and the log of this session."
        )
        with gr.Row():
            ui.zip = gr.Button("Prepare results (.zip)", elem_id="zip")
            ui.log = gr.Button("Prepare log (.json)", elem_id="log")
        ui.file = gr.File(label="File to download", interactive=False, elem_id="file")
    return ui


def _pictures(ui: SimpleNamespace, asked: str) -> None:
    ui.gallery = gr.Gallery(
        label="Most anomalous first",
        columns=4,
        height=330,
        allow_preview=False,
        object_fit="cover",
        buttons=[],
        elem_id="gallery",
        interactive=False,
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=300):
            ui.slider = gr.ImageSlider(
                label="Picture and anomaly map: drag the line",
                type="filepath",
                slider_position=50,
                max_height=460,
                elem_id="slider",
                buttons=["fullscreen"],
                interactive=False,
            )
        with gr.Column(scale=2, min_width=300):
            ui.details = gr.HTML("", elem_id="details")
            ui.region = gr.Dropdown([], label="Region to mark as false alarm", elem_id="region", visible=False)
            with gr.Row():
                ui.false_alarm = gr.Button(
                    "Mark as false alarm", size="sm", min_width=140, elem_id="false-alarm", visible=False
                )
                ui.draw = gr.Button("Draw a missed defect", size="sm", min_width=140, elem_id="draw", visible=False)
                ui.undo = gr.Button("Undo correction", size="sm", min_width=140, elem_id="undo", visible=False)
            ui.explain = gr.Button(f"Ask {asked}", size="sm", elem_id="explain", visible=bool(asked))
            ui.explanation = gr.HTML("", elem_id="explanation")
    ui.editor = gr.ImageEditor(
        label="Draw over the missed defect",
        type="numpy",
        sources=(),
        transforms=(),
        layers=False,
        visible=False,
        brush=gr.Brush(default_size=18, colors=["#e0115f"], color_mode="fixed"),
        elem_id="editor",
        height=520,
        buttons=[],
    )
    ui.miss = gr.Button("Mark as missed defect", visible=False, elem_id="miss")
    with gr.Accordion("Text prompts", open=False):
        ui.prompts = gr.HTML("")


def _calibration(ui: SimpleNamespace) -> None:
    gr.Markdown(
        "Thresholds from normal pictures that are not reference images, for a false-alarm rate that you choose "
        "(split-conformal). *n* normal pictures cannot guarantee a rate below 1 / (*n* + 1). Leave-one-out scores each "
        "reference image without itself and needs no further pictures; its rate is approximate. The thresholds are computed "
        "anew after every change of reference images or corrections."
    )
    ui.max_false_alarms = gr.Slider(
        0.005, 0.5, 0.05, step=0.005, label="Highest false-alarm rate (share of normal pictures called anomalous)", buttons=[]
    )
    ui.normals = gr.File(label="Normal pictures for calibration", file_count="multiple", height=140, elem_id="normals")
    with gr.Row():
        ui.calibrate = gr.Button("Calibrate", variant="primary", elem_id="calibrate")
        ui.leave_one_out = gr.Button("Leave-one-out on references", elem_id="leave-one-out")
    ui.calibration = gr.HTML("", elem_id="calibration")


def _prompt_effects(ui: SimpleNamespace) -> None:
    ui.show_effects = gr.Button("Show the effect of each prompt", elem_id="show-effects")
    ui.effects = gr.HTML("", elem_id="effects")
    gr.Markdown(
        "Compare two prompt sets on the same pictures: defect words (compact), phrases such as `damaged {}`, or object names."
    )
    with gr.Row():
        ui.first = gr.Textbox(label="Set A", placeholder="scratch, hole", elem_id="set-a")
        ui.second = gr.Textbox(label="Set B", placeholder="empty: the method's default prompts", elem_id="set-b")
    ui.compare = gr.Button("Compare A and B", elem_id="compare")
    ui.compared = gr.Dataframe(
        headers=["Picture", "Score A", "Score B", "B - A"],
        datatype=["str", "number", "number", "number"],
        interactive=False,
        elem_id="compared",
        max_height=420,
    )


def _kinds(ui: SimpleNamespace) -> None:
    gr.Markdown(
        "Groups the regions of anomalous pictures, and of those for review, by what they look like. Kinds that get one name "
        "become one. The names are in the downloaded results too."
    )
    with gr.Row():
        ui.number = gr.Number(0, label="Number of kinds (0: found)", minimum=0, precision=0, elem_id="number")
        ui.group = gr.Button("Group into kinds", variant="primary", elem_id="group")
    with gr.Row():
        ui.kind = gr.Dropdown([], label="Kind", elem_id="kind")
        ui.kind_name = gr.Textbox(label="New name, or that of another kind", max_length=60, elem_id="kind-name")
        ui.rename = gr.Button("Rename or merge", elem_id="rename")
    ui.kinds = gr.HTML("", elem_id="kinds")
