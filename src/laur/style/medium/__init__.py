"""Styles after what a picture is made with: oil, watercolour, pencil, ink, pixels, paper."""
