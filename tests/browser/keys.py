"""What the slider tests share: the time from a key going down to the first frame with another picture in it."""

import statistics

# Call with the selector of something inside the picture's output; `window.latencies` then fills, in milliseconds.
WATCH = """selector => {
    window.latencies = [];
    const picture = document.querySelector(selector).closest(".widget-html-content");
    document.addEventListener("keydown", () => { window.pressed = performance.now(); }, true);
    new MutationObserver(() => requestAnimationFrame(() => {
        if (window.pressed) window.latencies.push(performance.now() - window.pressed);
        window.pressed = 0;
    })).observe(picture, {childList: true, subtree: true, characterData: true});
}"""


def told(page, capsys, at_least):
    """Print the latencies seen, at least so many: two that share a frame count once. The bound is generous, clocks are noisy."""
    latencies = page.evaluate("window.latencies")
    assert len(latencies) >= at_least
    with capsys.disabled():
        print(f"\nkey press to picture: median {statistics.median(latencies):.0f} ms, most {max(latencies):.0f} ms")
    assert statistics.median(latencies) < 1000
