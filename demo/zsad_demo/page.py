"""The layout: what is on the page, without what it does."""

from __future__ import annotations

from types import SimpleNamespace

import gradio as gr

from zsad_demo.facts import Offer
from zsad_demo.uploads import MEGABYTES, PICTURES, REFERENCES
from zsad_demo.views import COLUMNS

HEAD = """<div id="top"><h1>zsad: find what is wrong in pictures of things never trained on</h1>
<p>Drop pictures of one kind of object. They are judged by a model that ships with the package, on the machine where this
page is served, and deleted when you close the page.</p></div>"""
EMPTY = """<div class="summary"><p class="soft">Nothing is inspected yet. Drop pictures, or take an example.</p></div>"""


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


def inputs(offers: dict[str, Offer], examples: dict[str, str]) -> SimpleNamespace:
    """The left column: pictures, name, words, references, method."""
    ui = SimpleNamespace()
    ui.pictures = gr.File(
        label=f"Pictures (up to {PICTURES}, {MEGABYTES} MB each)", file_count="multiple", height=170, elem_id="pictures"
    )
    with gr.Row(elem_id="examples"):
        ui.examples = {
            key: gr.Button(f"Example: {said}", size="sm", elem_id=f"example-{key}") for key, said in examples.items()
        }
    ui.target = gr.Textbox(label="What is to be seen", value="object", max_length=100, placeholder="metal nut")
    with gr.Accordion("References, defect words, method", open=False, elem_id="more"):
        ui.references = gr.File(
            label=f"Good pictures to compare with (up to {REFERENCES})", file_count="multiple", height=140, elem_id="references"
        )
        ui.words = gr.Textbox(
            label="Defect words to look for (optional)",
            placeholder="scratch, hole",
            max_length=300,
            info="scratch, crack, hole, stain, contamination, broken, colour, bent, missing; a wrong word costs more than none",
        )
        ui.method = gr.Dropdown([(one.label, one.name) for one in offers.values()], value="compact", label="Method")
        ui.method_note = gr.Markdown(offers["compact"].note, elem_classes="soft")
        ui.agree = gr.Checkbox(label="Download it now", value=False, visible=False)
    ui.clicked = gr.Number(0, visible=False)  # ms, by the visitor's clock
    with gr.Row():
        ui.inspect = gr.Button("Inspect", variant="primary", scale=3, elem_id="inspect")
        ui.stop = gr.Button("Stop", scale=1, min_width=80, elem_id="stop")
    return ui


def outputs(ui: SimpleNamespace) -> SimpleNamespace:
    """The right column: verdicts, levels, and what can be done about them."""
    ui.status = gr.HTML(EMPTY, elem_id="status")
    with gr.Row():
        ui.anomalous = gr.Slider(0, 2, 1, step=0.001, label="Anomalous from", elem_id="anomalous", buttons=[], min_width=200)
        ui.review = gr.Slider(0, 2, 1, step=0.001, label="Review from", elem_id="review", buttons=[], min_width=200)
        ui.automatic = gr.Button("Automatic", size="sm", scale=0, min_width=110, elem_id="automatic")
    with gr.Tab("Pictures", elem_id="tab-pictures"):
        _pictures(ui)
    with gr.Tab("Table"):
        kinds = ["number", "str", "str", "number", "str"]
        ui.table = gr.Dataframe(
            headers=list(COLUMNS),
            datatype=kinds,
            interactive=False,
            wrap=True,
            show_search="filter",
            elem_id="table",
            label="Worst first; click a heading to sort, a row to look at the picture",
            max_height=600,
        )
    with gr.Tab("Calibrate"):
        _calibrate(ui)
    with gr.Tab("Prompt lab"):
        _lab(ui)
    with gr.Tab("Take away"):
        gr.Markdown(
            "The files that `zsad predict` writes (predictions.jsonl, .csv, overlays, masks, maps, report.html), and its log."
        )
        with gr.Row():
            ui.zip = gr.Button("Make the zip", elem_id="zip")
            ui.log = gr.Button("Make the log", elem_id="log")
        ui.file = gr.File(label="Ready to download", interactive=False, elem_id="file")
    return ui


def _pictures(ui: SimpleNamespace) -> None:
    ui.gallery = gr.Gallery(
        label="Worst first",
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
                label="Picture and heat map: drag the line",
                type="filepath",
                slider_position=50,
                max_height=460,
                elem_id="slider",
                buttons=["fullscreen"],
                interactive=False,
            )
        with gr.Column(scale=2, min_width=300):
            ui.facts = gr.HTML("", elem_id="facts")
            ui.region = gr.Dropdown([], label="Is a region a false alarm?", elem_id="region", visible=False)
            with gr.Row():
                ui.false_alarm = gr.Button("It is normal", size="sm", min_width=90, elem_id="false-alarm", visible=False)
                ui.draw = gr.Button("Draw a miss", size="sm", min_width=90, elem_id="draw", visible=False)
                ui.undo = gr.Button("Undo", size="sm", min_width=70, elem_id="undo", visible=False)
    ui.editor = gr.ImageEditor(
        label="Draw over the defect that was missed",
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
    ui.miss = gr.Button("Add it as a defect", visible=False, elem_id="miss")
    with gr.Accordion("Prompts that were used", open=False):
        ui.prompts = gr.HTML("")


def _calibrate(ui: SimpleNamespace) -> None:
    gr.Markdown(
        "Levels from pictures that you know to be good. They follow every later change of references and corrections. "
        "*n* good pictures cannot promise fewer false alarms than 1 in *n* + 1."
    )
    ui.share = gr.Slider(0.005, 0.5, 0.05, step=0.005, label="Share of good pictures that may be called anomalous", buttons=[])
    ui.normals = gr.File(label="Good pictures that are no references", file_count="multiple", height=140, elem_id="normals")
    with gr.Row():
        ui.calibrate = gr.Button("Calibrate with these", variant="primary", elem_id="calibrate")
        ui.leave_out = gr.Button("Leave one reference out at a time (approximate)", elem_id="leave-out")
    ui.promise = gr.HTML("", elem_id="promise")


def _lab(ui: SimpleNamespace) -> None:
    ui.effects_go = gr.Button("What does each prompt do?", elem_id="effects-go")
    ui.effects = gr.HTML("", elem_id="effects")
    gr.Markdown("Two sets on the same pictures: defect words (compact), phrases such as `damaged {}`, or names of the object.")
    with gr.Row():
        ui.first = gr.Textbox(label="Set A", placeholder="scratch, hole", elem_id="set-a")
        ui.second = gr.Textbox(label="Set B", placeholder="empty: the method's own", elem_id="set-b")
    ui.compare = gr.Button("Compare A and B", elem_id="compare")
    ui.compared = gr.Dataframe(
        headers=["Picture", "A", "B", "B less A"],
        datatype=["str", "number", "number", "number"],
        interactive=False,
        elem_id="compared",
        max_height=420,
    )
