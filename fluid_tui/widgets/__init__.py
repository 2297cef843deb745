"""One widget family a file; all stand on :class:`fluid_tui.widgets.painted.Painted`."""
