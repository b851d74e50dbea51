"""Formats a frozen model is exported to: a module each, with ``write`` and ``read``.

``write(program, frozen, out)`` puts the program of the frozen folder into the folder ``out``;
``read(folder, card, schema)`` returns what runs it. A module imports what it runs on when it is called.
"""

FORMATS = ("pt2", "aoti", "onnx", "safetensors")
