"""Styles after genres of stories: their palette, light and place."""
