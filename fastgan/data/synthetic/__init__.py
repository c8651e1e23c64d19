"""The built-in sets, drawn by code of ours: pairs of shapes whose true translation is known, and labelled glyphs."""
