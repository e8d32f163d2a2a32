"""Take the pictures of the page that the documents show, and time it with 288 candidates.

    PYTHONPATH=src python bench/page_screens.py [--out docs/pictures] [--quick]

Needs the package playwright and a Chromium, which OPENZAYA_CHROMIUM may name. The runs are recorded
from the real state machine over a pretending model, as in tests/serve/web. --quick takes one.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from serve.web.browsing import launch, serving  # noqa: E402
from serve.web.play import Player  # noqa: E402
from serve.web.sample_runs import (  # noqa: E402
    failed_run,
    fill_list,
    good_run,
    hard_run,
    large_run,
)

WIDE = {"width": 1280, "height": 860}
TALL = {"width": 1000, "height": 1190}
NARROW = {"width": 360, "height": 740}


def main() -> None:
    """Take every picture, or with --quick the first."""
    args = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    args.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures")
    args.add_argument("--quick", action="store_true")
    given = args.parse_args()
    player = Player()
    good, hard = player.add(good_run()), player.add(hard_run())
    large, failed = player.add(large_run()), player.add(failed_run())
    live = player.add(good_run("run-live"), told=0)
    player.tell(live.id, int(len(live.events) * 0.56))
    fill_list(player)
    with serving(player) as url, launch() as browser:
        camera = Camera(browser, url, given.out)
        camera.take("page-run", f"#/runs/{good.id}", full=True)
        if given.quick:
            return
        camera.take("page-live", f"#/runs/{live.id}", is_dark=True)
        camera.take("page-large", f"#/runs/{large.id}", size=TALL)
        camera.take("page-candidate", f"#/runs/{good.id}/1/3")
        camera.take("page-failed", f"#/runs/{failed.id}")
        camera.take("page-compare", f"#/compare/{good.id}/{hard.id}", full=True)
        camera.take("page-list", "#/runs")
        camera.take("page-ask", "#/", is_dark=True)
        camera.take("page-narrow", f"#/runs/{good.id}", size=NARROW)
        time_large(browser, url, player, large.id)


class Camera:
    """Opens an address and keeps what is seen."""

    def __init__(self, browser: Any, url: str, out: Path) -> None:
        """Pictures go to the folder `out`."""
        self._browser = browser
        self._url = url
        self._out = out
        out.mkdir(parents=True, exist_ok=True)

    def take(
        self,
        name: str,
        address: str,
        *,
        size: dict[str, int] = WIDE,
        is_dark: bool = False,
        full: bool = False,
    ) -> None:
        """Write NAME.png; `full` shows the whole page, not only the first screen."""
        began = time.perf_counter()
        context = self._browser.new_context(
            viewport=size,
            color_scheme="dark" if is_dark else "light",
            reduced_motion="reduce",
            timezone_id="UTC",
            locale="en-US",
        )
        page = context.new_page()
        page.on("pageerror", lambda error: print(f"{name}: {error}", file=sys.stderr))
        page.on("console", lambda m: m.type == "error" and print(name, m.text, file=sys.stderr))
        page.goto(f"{self._url}/{address}")
        page.wait_for_selector("main > :not(:has(.loading))")
        page.wait_for_timeout(700)
        if address == "#/":
            page.fill("#question", "How many primes p below 10,000 have p + 2 and p + 6 prime too?")
            page.wait_for_timeout(600)
        path = self._out / f"{name}.png"
        page.screenshot(path=path, full_page=full)
        print(f"{path}  {time.perf_counter() - began:.1f} s")
        context.close()


def counters(session: Any) -> dict[str, float]:
    """Return the seconds of CPU that the page's thread has spent, by kind."""
    told = session.send("Performance.getMetrics")["metrics"]
    wanted = ("ScriptDuration", "LayoutDuration", "RecalcStyleDuration", "TaskDuration")
    return {m["name"]: m["value"] for m in told if m["name"] in wanted}


def time_large(browser: Any, url: str, player: Player, run_id: str) -> None:
    """Print how long the browser is busy at a stretch while 288 candidates come and are lit."""
    page = browser.new_page(viewport=WIDE)
    player.live[run_id] = 0
    page.goto(f"{url}/#/runs/{run_id}")
    page.wait_for_selector(".graph .planned")
    page.evaluate(
        "window.tasks = []; new PerformanceObserver(l => tasks.push(...l.getEntries().map("
        "e => e.duration))).observe({ entryTypes: ['longtask'] })"
    )
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    begun = counters(session)
    num_events = len(player.runs[run_id].events)
    for _ in range(100):
        player.tell(run_id, num_events // 100 + 1)
        page.wait_for_timeout(50)
    page.wait_for_selector(".graph .won")
    spent = {name: value - begun[name] for name, value in counters(session).items()}
    tasks = sorted(page.evaluate("tasks"))
    longest = f"{tasks[-1]:.0f} ms" if tasks else "under 50 ms"
    print(f"live, {num_events} events in 5 s: {len(tasks)} tasks over 50 ms, longest {longest}")
    print(", ".join(f"{name} {spent[name]:.2f} s" for name in sorted(spent)), "of CPU")
    lit = page.evaluate(
        """() => {
            const times = [];
            for (const node of document.querySelectorAll(".graph [data-key]")) {
                const began = performance.now();
                node.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
                node.getBoundingClientRect();
                times.push(performance.now() - began);
            }
            return times.sort((a, b) => a - b);
        }"""
    )
    print(f"lighting an ancestry: median {lit[len(lit) // 2]:.1f} ms, most {lit[-1]:.1f} ms")
    page.close()


if __name__ == "__main__":
    main()
