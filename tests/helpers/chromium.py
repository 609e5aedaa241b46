"""A headless Chromium that talks to nobody."""

import shutil
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    # A click that waits for a smooth scroll misses what it aims at on a busy machine.
    "--force-prefers-reduced-motion",
)


def start(profile: str) -> Any:
    """Start Chromium with a fresh profile folder, keeping its console and network logs."""
    program = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if not program or not driver:
        raise RuntimeError("no Chromium: apt-get install chromium chromium-driver")
    options = Options()
    options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=Service(driver))


def resize(browser: Any, width: int, height: int = 900) -> None:
    """Set the width of the page in CSS pixels, below what a window of the desktop may have."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
