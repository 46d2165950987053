"""Styles after schools of painting."""
