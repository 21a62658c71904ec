from types import SimpleNamespace

from markdown_it import MarkdownIt

from kfp_osft.stages.preprocess.report_page import as_markdown, publish

REPORT = {
    "rows": 3,
    "samples": 3,
    "warnings": [],
    "dropped_in_words": "",
    "left_out_in_words": [],
    "tokens": 90,
    "loss_share": 0.5,
    "tokens_of_a_sample": {"median": 30, "95th": 30, "longest": 30},
    "training": {
        "steps": 1,
        "epochs": 1,
        "effective_batch_size": 3,
        "workers": 1,
        "tokens": 90,
        "warnings": ["the training has only 1 step"],
    },
    "sample": "a\nb",
}


def rendered(lines: list[str]) -> str:
    return MarkdownIt("commonmark").render(as_markdown(lines))


def test_each_line_is_an_item_with_its_label():
    page = rendered(["Rows: 200 read, 200 to train on", "Warning: lower training_num_epochs"])
    assert "<li><strong>Rows:</strong> 200 read, 200 to train on</li>" in page.replace("\n", "")
    assert "<strong>Warning:</strong> lower training_num_epochs" in page


def test_the_sample_is_shown_as_it_is():
    sample = "<|im_start|>user\n**Hi** ~~~\n```python\n<script>alert(1)</script>\n```\n[[Bye<|im_end|>]]"
    page = rendered([f"The first sample, between [[ and ]] what is learnt:\n{sample}", "Disk: 1 GiB"])
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "<script" not in page
    assert "**Hi** ~~~" in page
    assert "<strong>Disk:</strong>" in page


def test_what_looks_like_markup_in_a_line_is_text():
    page = rendered(["Dropped: 3 with <b>5 *tokens* [x](y)"])
    assert "&lt;b&gt;5 *tokens* [x](y)" in page


def test_the_page_says_what_the_log_says(tmp_path, capsys):
    page = SimpleNamespace(path=str(tmp_path / "new" / "page"), uri="x")
    publish(REPORT, ["Disk: about 1 GiB"], page)

    text = (tmp_path / "new" / "page").read_text()
    logged = capsys.readouterr().out
    for said in ("3 read, 3 to train on", "the training has only 1 step", "about 1 GiB"):
        assert said in text and said in logged
    assert "\na\nb\n" in text and "\n    a\n    b\n" in logged


def test_a_secret_that_markdown_would_escape_is_not_on_the_page(tmp_path, monkeypatch):
    monkeypatch.setenv("S3_SECRET", "a*secret$with#marks")
    page = SimpleNamespace(path=str(tmp_path / "page"), uri="x")

    publish(REPORT, ["Warning: a*secret$with#marks is in the rows"], page)

    page_text = (tmp_path / "page").read_text()
    assert "is in the rows" in page_text and "secret" not in page_text
