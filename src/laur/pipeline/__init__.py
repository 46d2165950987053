"""Joins the rooms below: loading, resolving a Recipe into a Plan, the Engine, pipelines."""
