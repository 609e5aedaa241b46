"""The web page of a study: which defence at which strength keeps the images private, and what it costs."""

from fedsim.studies.page.write import PAGE, write_page

__all__ = ["PAGE", "write_page"]
