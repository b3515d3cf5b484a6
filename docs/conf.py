"""How the site is built: make docs, or sphinx-build -W -n docs out/docs."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "vitscope"
author = "The vitscope developers"
copyright = author
release = version = version_of("vitscope")

extensions = ["myst_nb", "sphinx.ext.autodoc", "docstrings", "pages"]
exclude_patterns = ["_ext", "_build"]
default_role = "code"
smartquotes = False  # texts of errors and options are to be found as they are
nitpicky = True
nitpick_ignore_regex = [
    # of other libraries, whose inventories would have to be fetched
    (r"py:.*", r"(torch|numpy|np|PIL|nn|timm|pyarrow|pathlib|os|collections|typing|fastapi|starlette|abc)\..*"),
    (r"py:.*", r"(Tensor|nn|np|Image|Path|Any|Callable|Sequence|Mapping|Iterable|Iterator|Literal|Self)"),
    (r"py:.*", r"(FastAPI|table|NoneType|FieldInfo)"),
]
nitpick_ignore = [("py:class", "dict[str")]  # autodoc's reading of a field with a default factory
suppress_warnings = ["config.cache"]

# pages
myst_enable_extensions = ["html_image"]  # pictures of a given width
myst_heading_anchors = 3
nb_execution_mode = "auto"  # they are kept without outputs; -D nb_execution_mode=off does not run them
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"  # warnings of tqdm without widgets, which name the builder's folders

# reference
autoclass_content = "both"  # of a class its docstring and that of __init__
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90

# looks
html_theme = "furo"
html_title = f"vitscope {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
