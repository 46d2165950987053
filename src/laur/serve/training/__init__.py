"""Trainings as jobs: what is asked for, and the worker that sees one through. What trains is handed in from outside."""
